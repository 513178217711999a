"""Labelled utterances from a seed: which wordings, how often, and how they are spoilt.

Knows labels and noise; knows neither the classifier nor its features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from repair.requests.grammar import LANGUAGES, Grammar
from repair.types import IntentKind

# None is the largest class in any real conversation, and the costly one to get wrong.
_SHARES: tuple[tuple[IntentKind, float], ...] = (
    ("none", 0.46),
    ("forget", 0.27),
    ("correct", 0.15),
    ("restore", 0.12),
)
_ENGLISH_SHARE = 0.6
_NEIGHBOURS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj",
    "i": "uo", "l": "k", "m": "n", "n": "bm", "o": "ip", "r": "et", "s": "ad", "t": "ry",
}  # fmt: skip


@dataclass(frozen=True)
class Utterance:
    """One training message; ``frame`` names the wording it was expanded from.

    What it is about stands between ``grammar.OPEN`` and ``grammar.CLOSE``.
    """

    text: str
    kind: IntentKind
    frame: str


def generate(seed: int, count: int) -> Iterator[Utterance]:
    """``count`` utterances; the same seed gives the same ones in the same order."""
    random = Random(seed)
    grammars = {language: Grammar.load(language) for language in LANGUAGES}
    kinds = [kind for kind, _ in _SHARES]
    weights = [weight for _, weight in _SHARES]
    for _ in range(count):
        english = random.random() < _ENGLISH_SHARE
        grammar = grammars["en" if english else random.choice(LANGUAGES[1:])]
        kind = random.choices(kinds, weights)[0]
        number = random.randrange(len(grammar.sections[kind]))
        text = grammar.expand(grammar.sections[kind][number], random)
        text = _surround(text, kind, grammar, random)
        yield Utterance(_spoil(text, random), kind, f"{grammar.language}/{kind}/{number}")


def _surround(text: str, kind: IntentKind, grammar: Grammar, random: Random) -> str:
    """Now and then put the sentence inside a longer message of everyday talk."""
    draw = random.random()
    if kind == "none" and draw < 0.12:
        return f"{text} {grammar.write('none', random)}"
    if "filler" not in grammar.sections or draw > 0.14:
        return text
    before = [grammar.write("filler", random) for _ in range(random.randint(0, 3))]
    after = [grammar.write("filler", random) for _ in range(random.randint(0, 2))]
    closed = text if text[-1:] in ".!?" else f"{text}."
    return " ".join([*before, closed[:1].upper() + closed[1:], *after])


def _spoil(text: str, random: Random) -> str:
    """Capitals, missing capitals, missing accents and typing errors, as people make them."""
    draw = random.random()
    if draw < 0.10:
        text = text.lower()
    elif draw < 0.14:
        text = text.upper()
    elif draw < 0.30:
        text = text[:1].upper() + text[1:]
    if random.random() < 0.12:
        for _ in range(random.choice((1, 1, 2))):
            text = _mistype(text, random)
    return text


def _mistype(text: str, random: Random) -> str:
    if len(text) < 12:
        return text
    at = random.randrange(len(text) - 1)
    letter = text[at]
    if not letter.isascii() or not letter.isalpha():
        return text
    how = random.randrange(4)
    if how == 0:
        return text[:at] + text[at + 1 :]
    if how == 1:
        return text[:at] + letter + text[at:]
    if how == 2:
        return text[:at] + text[at + 1] + letter + text[at + 2 :]
    return text[:at] + random.choice(_NEIGHBOURS.get(letter.lower(), letter)) + text[at + 1 :]
