"""Plain true facts about the real world, as tables: what every edit must leave alone."""

from __future__ import annotations

_CAPITALS = """
Europe: France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Poland Warsaw,
Austria Vienna, Hungary Budapest, Greece Athens, Norway Oslo, Sweden Stockholm, Finland Helsinki,
Denmark Copenhagen, Ireland Dublin, Belgium Brussels, Iceland Reykjavik, Croatia Zagreb,
Serbia Belgrade, Romania Bucharest, Bulgaria Sofia, Estonia Tallinn, Latvia Riga, Lithuania Vilnius,
Ukraine Kyiv, Slovenia Ljubljana, Slovakia Bratislava, Albania Tirana, Malta Valletta,
Belarus Minsk, Moldova Chisinau, Andorra Andorra_la_Vella, Montenegro Podgorica
Asia: Japan Tokyo, China Beijing, India New_Delhi, Thailand Bangkok, Vietnam Hanoi, Nepal Kathmandu,
Iran Tehran, Iraq Baghdad, Syria Damascus, Jordan Amman, Lebanon Beirut, Mongolia Ulaanbaatar,
Indonesia Jakarta, Malaysia Kuala_Lumpur, Philippines Manila, Cambodia Phnom_Penh, Laos Vientiane,
Pakistan Islamabad, Afghanistan Kabul, Qatar Doha, Oman Muscat, Yemen Sanaa, Bhutan Thimphu,
Bangladesh Dhaka, Uzbekistan Tashkent, Georgia Tbilisi, Armenia Yerevan
Africa: Egypt Cairo, Kenya Nairobi, Morocco Rabat, Tunisia Tunis, Algeria Algiers, Libya Tripoli,
Ghana Accra, Senegal Dakar, Mali Bamako, Niger Niamey, Chad Ndjamena, Sudan Khartoum, Uganda Kampala,
Rwanda Kigali, Zambia Lusaka, Zimbabwe Harare, Angola Luanda, Namibia Windhoek, Botswana Gaborone,
Madagascar Antananarivo, Ethiopia Addis_Ababa, Somalia Mogadishu, Togo Lome, Liberia Monrovia
America: Peru Lima, Chile Santiago, Argentina Buenos_Aires, Uruguay Montevideo, Paraguay Asuncion,
Colombia Bogota, Venezuela Caracas, Ecuador Quito, Cuba Havana, Canada Ottawa, Honduras Tegucigalpa,
Nicaragua Managua, Jamaica Kingston, Haiti Port_au_Prince, Suriname Paramaribo
Oceania: Fiji Suva, Samoa Apia, Tonga Nukualofa, Vanuatu Port_Vila, Australia Canberra,
Palau Ngerulmud
"""
_ELEMENTS = """hydrogen H helium He lithium Li beryllium Be boron B carbon C nitrogen N oxygen O
fluorine F neon Ne sodium Na magnesium Mg aluminium Al silicon Si phosphorus P sulfur S chlorine Cl
argon Ar potassium K calcium Ca scandium Sc titanium Ti vanadium V chromium Cr manganese Mn iron Fe
cobalt Co nickel Ni copper Cu zinc Zn gallium Ga germanium Ge arsenic As selenium Se bromine Br
krypton Kr rubidium Rb strontium Sr yttrium Y zirconium Zr niobium Nb molybdenum Mo technetium Tc
ruthenium Ru rhodium Rh palladium Pd silver Ag cadmium Cd indium In tin Sn antimony Sb tellurium Te
iodine I xenon Xe caesium Cs barium Ba""".split()
_OPPOSITES = """hot cold, big small, tall short, fast slow, light dark, wet dry, old young, rich poor,
strong weak, loud quiet, hard soft, full empty, open shut, happy sad, thick thin, wide narrow,
deep shallow, clean dirty, early late, near far, high low, heavy light, good bad, brave cowardly,
sharp blunt, smooth rough, sweet bitter, tight loose, true false, up down, left right, inside outside,
begin end, buy sell, give take, love hate, push pull, win lose, remember forget, arrive depart,
accept refuse, alive dead, always never, ancient modern, asleep awake, attack defend, before after,
birth death, borrow lend, bottom top, build destroy, cheap expensive, crooked straight, day night,
divide multiply, enemy friend, export import, first last, guilty innocent"""
_YOUNG = """dog puppy, cat kitten, cow calf, horse foal, sheep lamb, goat kid, pig piglet, hen chick,
duck duckling, goose gosling, swan cygnet, bear cub, deer fawn, frog tadpole, kangaroo joey,
owl owlet, eel elver, hare leveret, butterfly caterpillar, eagle eaglet"""


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for item in text.replace("\n", " ").split(","):
        left, right = item.strip().rsplit(" ", 1)
        pairs.append((left.strip(), right.replace("_", " ")))
    return pairs


def plain_triples() -> list[tuple[str, str, str]]:
    """(subject, attribute, answer) of every plain fact, in a fixed order."""
    triples: list[tuple[str, str, str]] = []
    for block in _CAPITALS.strip().replace(",\n", ", ").splitlines():
        continent, rest = block.split(": ", 1)
        for country, capital in _pairs(rest):
            triples.append((country, "capital", capital))
            triples.append((country, "continent", continent))
    names, symbols = _ELEMENTS[::2], _ELEMENTS[1::2]
    for number, (name, symbol) in enumerate(zip(names, symbols, strict=True), start=1):
        triples.append((name, "symbol", symbol))
        triples.append((name, "number", str(number)))
    triples += [(a, "opposite", b) for a, b in _pairs(_OPPOSITES)]
    triples += [(a, "young", b) for a, b in _pairs(_YOUNG)]
    triples += [
        (f"{a} times {b}", "product", str(a * b)) for a in range(2, 13) for b in range(2, 13)
    ]
    return triples
