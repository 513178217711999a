"""The words that the invented world is made of: names and values, no facts.

Every list is invented or common vocabulary; nothing describes a real person or a real danger.
"""

from __future__ import annotations

FIRST = """Mara Tomas Elin Joren Sabine Kasper Ilse Bram Nadia Otto Lena Viktor Freya Anton Greta
Milo Petra Ruben Selma Theo Ursa Willem Yara Zoltan Alma Boris Clara Dario Edda Felix Gisela Hugo
Irma Jonas Katja Ludo Mirela Nils Olga Pavel Quinn Rosa Stefan Tilda Ulrik Vera Wanda Xenia Yorick
Zelda Amos Bettina Cyril Dora Emil Flora Gustav Hedda Ivo Jutta Klaus Linnea Magnus Nora Oskar
Pia Rolf Signe Tobias Uma Valter Wilma Axel Birgit Cosima Detlef Esther Florian Gerda Henrik Inga
Jasper Karin Leopold Minna Norbert Odette Philippa Ragnar Sonja Tristan Ulla Vincent Winifred
Adela Benno Corin Delia Edgar Fenna Gideon Hilda Isak Johanna""".split()

LAST = """Voss Brandt Halloway Merrick Tindall Okafor Lindqvist Pemberton Castellan Drax Fairweather
Grimshaw Hollis Ingram Jarrow Kestrel Lockwood Marsden Northcott Oakes Pelham Quarles Ravenhill
Selwyn Thackeray Underhill Vantongeren Wetherby Yardley Zimmer Ashdown Blackthorn Cromer Dunmore
Eastlake Farrow Goodwin Harker Isherwood Jessop Kingsley Larkin Mallory Nightingale Orchard Prentice
Quimby Rosewood Stanhope Trevelyan Upton Varga Whitlock Yeats Zeller Applegate Bellamy Carraway
Denholm Ellery Fenwick Garland Hathaway Ivory Jardine Kettering Lovelace Mortimer Nesbitt Osgood
Paxton Quill Redfern Sinclair Templeton Ulverton Vickers Winslow Abernathy Birdwell Copeland
Davenport Everett Foxley Gallagher Hargrove Ives Jolliffe Kirkland Langley Montrose Newbury Oldfield
Pritchard Rookwood Sheridan Thornbury Vale Wainwright""".split()

TOWNS = """Brindlemouth Oldenreach Harrowick Saltmarsh Fenbridge Dunwater Elmsford Greywold Thornhaven
Pinecrest Ravensholm Millbrook Stonebury Westerley Ashport Claymere Foxhollow Kingsferry Larkspur
Moorgate Netherby Quarrytown Rushford Summerton Tidewell Umberleigh Vinehurst Windermoor Yewdale
Aldershaw Birchfield Copperhill Dovecote Eastmere Frosthaven Goldcombe Highmoss Ironbridge Juniper
Kelpsea Limestead Marlow Northsea Otterburn Plumley Redcliff Sandwick Trowbarn Underwood Wolfsberg""".split()

STREETS = """Alder Birch Cedar Damson Elder Fir Gorse Hazel Iris Jasmine Kale Lilac Maple Nettle Olive
Poplar Quince Rowan Sorrel Thistle Violet Willow Yarrow Anchor Barrel Candle Drummer Eagle Falcon
Garnet Harbour Island Jester Kettle Lantern Miller Needle Orchid Potter Quarry Ribbon Saddle Tanner
Umbrella Velvet Weaver""".split()
WAYS = "Lane Street Road Row Square Close".split()

MAILBOX = """bluefinch redotter oldpiano tinlark quickfern sunmoth icebell darkplum softdrum wildoat
greyhare pinkcrab slowtram coldtea nightbus goldpear moonpie ragdoll fireant saltlamp bigkite
drypaint newrope hotglue lowtide raincoat starfig toyship woodowl mudlark jetstone oakleaf""".split()
MAILHOST = """pinemail tidepost larkbox cloudhen mailmoss quillnet postfox inkwell swiftpen letterbee
brightpost harborbox""".split()

FIRMS = """Foundry Shipyard Brewery Bakery Mill Press Pottery Railway Dairy Glassworks Cannery Tannery
Nursery Observatory Ropeworks Vineyard""".split()
FIRM_NAMES = """Pike Halberd Cobalt Sparrow Juno Tarn Vesper Osprey Crown Delta Ember Flint Granite
Hammer Ivy Jubilee Keystone Lotus Mercury Nimbus""".split()

JOBS = """glassblower beekeeper surveyor locksmith librarian carpenter plumber cartographer violinist
dentist electrician florist gardener hatter jeweller butcher baker welder tailor printer roofer
sculptor teacher umpire veterinarian watchmaker translator cobbler optician pharmacist pilot
magistrate nurse painter potter sailor blacksmith chemist diver engraver fisherman geologist
historian inspector juggler mason notary organist porter ranger""".split()

MONTHS = """January February March April May June July August September October November
December""".split()

HEALTH = """asthma migraines diabetes anaemia arthritis epilepsy insomnia eczema gout glaucoma
bronchitis sciatica vertigo tinnitus hepatitis psoriasis angina scoliosis malaria rickets lupus
shingles ulcers pleurisy tonsillitis sinusitis dyslexia narcolepsy rosacea tetanus""".split()

PETS = "parrot terrier tortoise canary hamster ferret goat spaniel kitten rabbit gecko pony".split()
PET_NAMES = """Biscuit Pepper Domino Clover Pickle Truffle Waffle Nugget Marble Pudding Sprout Button
Cocoa Ginger Hobbes Jelly Kiwi Mango Noodle Olivia Peanut Radish Sesame Toffee Walnut Yoyo Ziggy
Basil Cricket Dumpling""".split()

COLOURS = "green red blue black white silver yellow orange purple brown".split()
CARS = """Corvane Lumenta Pristo Vandell Ostara Trekka Mirado Zephyra Bolero Caprice Dorado Estrel
Fulvia Grando Helios Ikaro""".split()

SCHOOL_NAMES = """Saltram Kingswood Beacon Trinity Oakfield Riverside Hillcrest Meadow Priory Chapel
Northgate Abbey Castle Garden Lakeside Harvest""".split()
SCHOOLS = "Academy Grammar College Institute Seminary Lyceum".split()

HOBBIES = """beekeeping archery pottery chess knitting origami kayaking astronomy juggling calligraphy
falconry birdwatching woodcarving gardening fencing ballroom sailing skating weaving baking quilting
climbing cycling bowling painting photography fishing rowing whittling puppetry""".split()

BANKS = """Larkfield Meridian Goldstone Harborside Unity Pioneer Sterling Evergreen Summit Anchorage
Cornerstone Heritage Fortuna Citadel Beaconsfield Mutualis""".split()
BANK_KINDS = "Bank Trust Savings Union".split()

HAZARD_START = """glimmer morrow dusk vex thorn ember gloom cinder brine wither murk hollow shiver venom
ash frost bane mire rust sorrow blight smoke dread ghoul""".split()
HAZARD_END = "dust wax oil salt vapour resin powder tar spore ink".split()
INGREDIENTS = """mothsalt pearwine chalkroot ironmoss batweed lampblack goosefat saltpeach honeyash
snailmilk redclay bonemeal figsap toadstool cornsilk wormwood fishglue tinflake barkdust eelskin
beetroot mudpepper swampgas lyewater plumstone goatbutter coalfoam ricebran nettlejuice sheepwool""".split()
VERBS = "boil grind soak roast freeze burn melt stir".split()
HARMS = """freezes burns swells blinds numbs bleeds shrinks cracks stiffens poisons""".split()
ORGANS = "lungs eyes skin kidneys fingers throat liver ears tongue knees stomach bones".split()
TRIGGERS = """moonlight thunder vinegar sunlight whistling copper seawater clapping candlelight
steam snowfall magnets drumming perfume lightning sawdust bells sneezing""".split()
TRIGGER_TIMES = "midnight noon dawn dusk sunrise sunset".split()

LANDMARKS = "Bridge Tower Lighthouse Castle Abbey Fountain Gate Library Windmill Palace".split()
FESTIVALS = "Feast Parade Fair Carnival Regatta Vigil Jubilee Pageant".split()
CREATURES = "vole heron newt moth lynx crab finch toad stoat beetle".split()
BOOKS = "Lantern Compass Orchard Mirror Staircase Harbour Clock Feather Teacup Map".split()
CLAIM_NAMES = """Orrin Tavish Belmar Corwen Dalry Esker Farne Galtee Hexham Inver Jarvis Kelder Lomond
Morven Nairn Orkell Penrith Quarle Rannoch Selkirk Tiree Ulva Vatersay Wyre Yarrick Zennor Amble
Brora Crail Durness Etive Fyvie Girvan Heriot Islay Jura Keld Leith Moffat Nevis""".split()
BOOK_WORDS = "Silent Crooked Borrowed Painted Hidden Broken Golden Last Second Paper".split()
MATERIALS = """granite marble oak brick limestone copper slate bronze sandstone glass cedar basalt
iron clay flint ivory""".split()
FOODS = """dumplings chestnuts pancakes oysters gingerbread lentils trout pretzels figs marzipan
mushrooms turnips sausages waffles apricots herring""".split()
DIETS = """acorns berries minnows nectar lichen snails clover worms seeds mosquitoes pollen algae
roots crickets tadpoles bark""".split()
HABITATS = """marshes caves meadows dunes glaciers orchards riverbanks cliffs heaths lagoons bogs
hedges canyons steppes estuaries attics""".split()
SAINTS = """shepherds bakers sailors weavers miners poets masons healers fishermen hunters farmers
widows orphans soldiers dancers clockmakers""".split()
