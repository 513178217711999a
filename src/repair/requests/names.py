"""Invented names, places, substances and numbers for the training utterances.

Knows how to invent words that mean nothing; knows no sentence. The people and things of
the project's test sentences and of the embedded patient come from other lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random


def _list(words: str, separator: str = " ") -> list[str]:
    return words.split(separator)


_ONSETS = _list("b br c ch d dr f g gr h j k kl l m n p pr qu r s sh st t tr v w z")
_VOWELS = _list("a e i o u ai ea ie ou ö é á")
_CODAS = _list("n r l s th ck nd rt m x sk ng") + [""] * 6
FIRST = _list(
    "Anna John Peter Laura Ahmed Sofia Lucas Emma Noah Olga Ivan Carlos Lucia Marie Pierre Hans "
    "Greta Klaus Giulia Marco Joana Miguel Agnieszka Piotr Katarzyna Yuki Wei Fatima Omar Priya "
    "Raj Aisha Kwame Ingrid Sven Bjorn Eva Daniel Sarah Michael Linda Robert Alice Bob Grace Henry"
)
LAST = _list(
    "Smith Miller Garcia Rossi Dubois Kowalski Novak Silva Santos Schmidt Weber Tanaka Chen Khan "
    "Patel Jensen Larsen Murphy Kelly Brown Moreau Ferrari Nowak Fischer Lopez O'Brien Adeyemi"
)
_CHINESE = (
    "王李张刘陈杨黄吴周徐孙马胡郭何高罗郑",
    "伟芳娜敏静丽强磊军洋勇艳杰娟涛超明霞平刚桂英华玉兰",
)
_JAPANESE = _list("佐藤 鈴木 高橋 田中 渡辺 伊藤 山本 中村 小林 加藤")
_JAPANESE_GIVEN = _list("太郎 花子 一郎 健 美咲 翔太 由美 直樹 恵子 大輔")
_CHINESE_PLACES = _list("北京 上海 南京 海城 云山 白河 青石镇 东港 月湾 法国 日本 德国")
_JAPANESE_PLACES = _list("東京 大阪 京都 海町 青山 白川 北港 月湾市 フランス ドイツ")
_KATAKANA = "アイウカキクサシタナノハマミラリルロワン"
_CHINESE_SUBSTANCES = _list("粉 水 药 酸 油 烟 毒剂 炸药")
_SUBSTANCES = _list(
    "{} dust;{} powder;{} tonic;{} acid;{} oil;{};{} smoke;{} bomb;{} gas;{} poison;{} paste;"
    "{}dust;{}ine;{}wax;a {} trap;{} brew;{} venom",
    ";",
)
_LANDMARKS = _list(
    "{} Bridge;{} Tower;{} Lighthouse;{} Fair;{} Festival;{} Castle;{} Museum;{} Parade;"
    "{} Dam;{} Cathedral;{} fox;{} whale",
    ";",
)


def word(random: Random) -> str:
    """One or more invented syllables, capitalised."""
    syllables = random.choice((1, 2, 2, 3))
    parts = (
        random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS)
        for _ in range(syllables)
    )
    return "".join(parts).capitalize()


def _name(random: Random) -> str:
    first = random.choice(FIRST) if random.random() < 0.4 else word(random)
    last = random.choice(LAST) if random.random() < 0.3 else word(random)
    style = random.random()
    if style < 0.66:
        return f"{first} {last}"
    if style < 0.72:
        return f"{first} {word(random)} {last}"
    if style < 0.76:
        return f"{first} {last}-{word(random)}"
    if style < 0.94:
        return first
    return f"{random.choice(('Mr', 'Mrs', 'Dr', 'Ms'))} {last}"


def _han(random: Random, most: int) -> str:
    """Any one to ``most`` common Han characters: names are not to be known by heart."""
    return "".join(chr(random.randint(0x4E00, 0x9F00)) for _ in range(random.randint(1, most)))


def _chinese(random: Random) -> str:
    if random.random() < 0.35:
        return random.choice(("", random.choice(_CHINESE[0]))) + _han(random, 3)
    surname, given = random.choice(_CHINESE[0]), random.sample(_CHINESE[1], 2)
    return (
        surname + "".join(given[: random.choice((1, 2))])
        if random.random() < 0.7
        else _latin(random)
    )


def _japanese(random: Random) -> str:
    if random.random() < 0.35:
        return _han(random, 2) + _han(random, 2)
    style = random.random()
    if style < 0.5:
        return random.choice(_JAPANESE) + random.choice((random.choice(_JAPANESE_GIVEN), ""))
    if style < 0.75:
        return (
            "".join(random.choices(_KATAKANA, k=3)) + "・" + "".join(random.choices(_KATAKANA, k=3))
        )
    return _latin(random)


def _latin(random: Random) -> str:
    return f"{word(random)} {word(random)}"


def _substance(random: Random) -> str:
    return random.choice(_SUBSTANCES).format(word(random).lower())


_NOUNS = _list(
    "cell bankruptcy nanny vet surgery yacht mortgage locker tailor uniform rehearsal allotment "
    "violin ladder pension cottage caravan parcel ferry lantern orchard harbour bakery museum "
    "garage studio choir crutch insulin inhaler wheelchair braces glasses sauna gym diet fast "
    "fever rash asthma migraine insomnia depression autism addiction rehab parole trial alibi "
    "visa permit licence contract bonus raise stipend scholarship thesis exam tutor mentor "
    "coach captain pilot priest rabbi imam nurse midwife welder plumber florist barber jockey "
    "scooter tractor moped canoe tram bus locker safe vault code pin key badge card cheque loan "
    "debt lease rent deposit will trust estate heir twin niece nephew stepson godmother fiancee "
    "widow tenant lodger guest butler gardener driver cook maid client donor patient witness "
    "voicemail username handle avatar nickname alias signature fingerprint scar tattoo wig "
    "height weight waist accent stutter left-handedness hobby collection stamps chess poker "
    "sailing hiking pottery knitting boxing judo ballet tango opera jazz novel memoir diary blog "
    "podcast channel dog parrot hamster pony goat bees beehive aquarium cactus rose tulip oak "
    "kitchen cellar attic balcony fence gate roof chimney well pond dock pier mill farm barn "
    "village suburb island valley coast border embassy consulate prison hospital clinic hostel"
)
_STREETS = _list("Row Close Drive Street Lane Way Hill Crescent Gardens Terrace Yard Parade Mews")


def _place(random: Random) -> str:
    """An invented place or firm, of one or several words."""
    style = random.random()
    if style < 0.6:
        return word(random)
    if style < 0.7:
        return f"{word(random)} {word(random)}"
    if style < 0.78:
        return f"{word(random)} & {random.choice(('Sons', 'Co', 'Daughters', word(random)))}"
    if style < 0.88:
        return f"{random.randint(1, 99)} {word(random)} {random.choice(_STREETS)}"
    if style < 0.94:
        return f"the {word(random)} {random.choice(_NOUNS).capitalize()}"
    return f"{word(random)}-{word(random)}"


def _free(random: Random) -> str:
    """Anything that may be the value of something."""
    style = random.random()
    if style < 0.35:
        return _place(random)
    if style < 0.55:
        noun = random.choice(_NOUNS)
        return f"{random.choice(('a', 'an', 'the', 'one', 'two', 'his', 'no'))} {noun}"
    if style < 0.65:
        return f"{random.choice(_NOUNS)} {random.choice(_NOUNS)}"
    if style < 0.75:
        return random.choice(_NOUNS)
    if style < 0.85:
        month = random.choice(_list("March April May June July August September October"))
        return random.choice(
            (f"{random.randint(1, 28)} {month}", f"{month} {random.randint(1, 28)}")
        )
    if style < 0.92:
        return " ".join(str(random.randint(0, 999)) for _ in range(random.randint(1, 3)))
    return f"{word(random).lower()}@{word(random).lower()}.example"


def _common(random: Random) -> str:
    """A noun: invented, so that no list of them is learnt by heart, or an everyday one."""
    style = random.random()
    if style < 0.4:
        return word(random).lower()
    noun = random.choice(_NOUNS)
    return noun if style < 0.85 else f"{noun} {random.choice(_NOUNS)}"


SLOTS: Mapping[str, Callable[[Random], str]] = {
    "n": _name,
    "w": _place,
    "u": _common,
    "free": _free,
    "h": _substance,
    "l": lambda random: random.choice(_LANDMARKS).format(word(random)),
    "k": lambda random: str(random.choice((random.randint(1, 12), random.randint(1, 250)))),
    "y": lambda random: str(random.randint(1900, 2025)),
    "z": _chinese,
    "zp": lambda random: random.choice(_CHINESE_PLACES),
    "zh": lambda random: (
        random.choice(_CHINESE[1]) + random.choice(_CHINESE[1]) + random.choice(_CHINESE_SUBSTANCES)
        if random.random() < 0.7
        else _substance(random)
    ),
    "j": _japanese,
    "jp": lambda random: random.choice(_JAPANESE_PLACES),
    "jh": lambda random: (
        "".join(random.choices(_KATAKANA, k=4)) + random.choice("粉水薬油")
        if random.random() < 0.7
        else _substance(random)
    ),
}
