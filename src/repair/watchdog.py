"""Reads one user turn: an order to forget, correct or restore, or none; and about what.

Knows text and the history of the conversation; knows nothing about the patient, its facts
or edits. The reading itself is a small network's (``repair.network``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from repair.corrections import find_correction
from repair.network import Ensemble, Word, words_of
from repair.targets import find_targets
from repair.types import Intent, IntentKind, Message
from repair.utterance import OwnWords, own_words

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

KINDS: Final[tuple[IntentKind, ...]] = ("none", "forget", "correct", "restore")
# A whole message is read beside its sentences while it is short enough to be one thought.
_WHOLE: Final = 500
# How likely a word must be for a target to begin, and to go on; how much less likely than the
# best a second target may be.
_LIKELY: Final = 0.5
_POSSIBLE: Final = 0.3
_DOUBT: Final = 0.3
# Latin, Chinese and Japanese: what training has. Nothing else is ever an order.
_READ: Final = re.compile("[A-Za-z\u00c0-\u024f\u3041-\u30ff\u3400-\u9fff]")
_CJK: Final = re.compile("[\u3041-\u30ff\u3400-\u9fff]")
_VERBS: Final = "把将忘记掉删除清抹去复原回道得住请让关于撤"
_OF: Final = frozenset("of for about de di do da du des del d von la le".split())
_OWNERS: Final = frozenset(
    "my our his her their your the a mein meine meiner seine ihre mon ma mes son sa ses mi mis su "
    "sus il la le lo el o os as mio mia meu minha".split()
)
_ORDERS: Final = frozenset(
    "please forget erase delete remove wipe bring restore undo lösche vergiss bitte oublie efface "
    "supprime borra olvida elimina dimentica cancella apaga esquece usuń zapomnij stop".split()
)


@dataclass(frozen=True)
class _Reading:
    """Of one sentence: probabilities of ``KINDS`` (4,), and what looks like a target."""

    odds: NDArray[float32]
    spans: tuple[str, ...]


@dataclass(frozen=True)
class Watchdog:
    """The embedded classifier."""

    network: Ensemble

    @classmethod
    def load(cls) -> Watchdog:
        """The trained classifier that ships with the package.

        Raises:
            EnvironmentProblem: the package's file is missing or of another version.
        """
        return cls(Ensemble.load())

    def read(self, text: str, history: Sequence[Message] = ()) -> Intent:
        """What ``text`` orders, after ``history`` (oldest first, without ``text``).

        Of a text longer than 3,000 characters the first and last 1,500 are read. Documents,
        quotations, code and front-end prompts inside the text are never orders.

        Returns:
            The likeliest kind with its probability, however low; the caller decides.
        """
        words = own_words(text)
        if not words.sentences:
            return Intent("none", (), 1.0)
        overall, single = self._readings(words)
        kind = KINDS[int(overall.argmax())]
        confidence = round(float(overall.max()), 4)
        if kind == "none":
            return Intent("none", (), confidence)
        ordering = [int(reading.odds.argmax()) == KINDS.index(kind) for reading in single]
        if kind == "correct":
            found, value = find_correction(words, ordering, history, self._is_request)
            return Intent(kind, found, confidence, value)
        marked = [reading.spans for reading in single]
        targets = find_targets(kind, words, ordering, history, self._is_request, marked)
        return Intent(kind, targets, confidence)

    def _is_request(self, text: str) -> bool:
        words = own_words(text)
        return bool(words.sentences) and int(self._readings(words)[0].argmax()) != 0

    def _readings(self, words: OwnWords) -> tuple[NDArray[float32], list[_Reading]]:
        """Probabilities of the message (4,), and the reading of each sentence."""
        single = [self._one(sentence) for sentence in words.sentences]
        strongest = min((reading.odds for reading in single), key=lambda odds: float(odds[0]))
        whole = " ".join(words.sentences)
        if len(single) == 1 or len(whole) > _WHOLE:
            return strongest, single
        # One sentence out of many is easily misread; the whole message has to agree.
        both: Any = (strongest + self._one(whole).odds) / 2
        return both, single

    def _one(self, sentence: str) -> _Reading:
        words = words_of(sentence)
        if not _READ.search(sentence):
            import numpy as np

            return _Reading(np.array([1, 0, 0, 0], dtype=np.float32), ())
        odds, tags = self.network.read(words)
        runs = _closed(words, _runs(1 - tags[:, 0], tags[:, 1]))
        spans = _apart(_whole(words, start, end) for start, end in runs)
        cut = [sentence[words[start].start : words[end].end] for start, end in spans]
        return _Reading(odds, tuple(dict.fromkeys(cut)))


def _apart(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that overlap are one."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _runs(inside: NDArray[float32], begin: NDArray[float32]) -> list[tuple[int, int]]:
    """First and last word of each target: from a likely word over the less likely ones.

    Of several, those that the network doubts as a whole are left out.
    """
    runs: list[tuple[int, int]] = []
    for at, chance in enumerate(inside):
        if not runs or runs[-1][1] < at - 1 or begin[at] > _LIKELY:
            if chance > _LIKELY:
                runs.append((at, at))
        elif chance > _POSSIBLE:
            runs[-1] = (runs[-1][0], at)
    means = [float(inside[start : end + 1].mean()) for start, end in runs]
    return [run for run, mean in zip(runs, means, strict=True) if mean > max(means) - _DOUBT]


def _closed(words: Sequence[Word], runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of Chinese and Japanese that one letter parts are one."""
    closed: list[tuple[int, int]] = []
    for start, end in runs:
        if closed and start - closed[-1][1] == 2 and _CJK.match(words[start - 1].text):
            closed[-1] = (closed[-1][0], end)
        else:
            closed.append((start, end))
    return closed


def _whole(words: Sequence[Word], start: int, end: int) -> tuple[int, int]:
    """The span without a name, a possessive or "the … of …" cut in two."""
    text = [word.text for word in words]
    if _CJK.match(text[start]):
        # A Japanese sentence begins with its target, a Chinese one has the verb before it.
        stops = "" if any("\u3040" <= t <= "\u30ff" for t in text) else _VERBS
        while start > 0 and _CJK.match(text[start - 1]) and text[start - 1] not in stops:
            start -= 1
        return start, end
    if start > 0 and text[start].lower() in (_OF | {"'", "s"}):
        start -= 1
    if start > 0 and (text[start - 1].lower() in _OWNERS or _joins(text[start - 1], text[start])):
        start -= 1
    while end + 1 < len(text) and _goes_on(text, end):
        end += 1
    return start, end


def _goes_on(text: Sequence[str], end: int) -> bool:
    """Whether a span that ends at word ``end`` cannot be over yet."""
    tail, following = text[end], text[end + 1]
    if following == "'" or (tail in ("'", "s") and end > 0 and following.isalpha()):
        return True
    if following.lower() in _OF and end + 2 < len(text) and text[end + 2][:1].isupper():
        return True
    return tail.lower() in (_OF | _OWNERS) or _joins(tail, following)


def _joins(left: str, right: str) -> bool:
    """Two capitalised words in a row belong to one name."""
    return all(
        len(word) > 1 and word[0].isupper() and word[1:].islower() and word.lower() not in _ORDERS
        for word in (left, right)
    )
