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
    if style < 0.8:
        return f"{first} {last}"
    if style < 0.92:
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


SLOTS: Mapping[str, Callable[[Random], str]] = {
    "n": _name,
    "w": word,
    # A common noun that no vocabulary lists.
    "u": lambda random: word(random).lower(),
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
