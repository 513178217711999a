"""Reads one user turn: an order to forget, correct or restore, or none; and about what.

Knows text and the history of the conversation; knows nothing about the patient, its facts
or edits. The reading itself is a small network's (``repair.network``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from repair.network import Network, words_of
from repair.targets import find_targets
from repair.types import Intent, IntentKind, Message
from repair.utterance import OwnWords, own_words

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

KINDS: Final[tuple[IntentKind, ...]] = ("none", "forget", "correct", "restore")
# A whole message is read beside its sentences while it is short enough to be one thought.
_WHOLE: Final = 500


@dataclass(frozen=True)
class _Reading:
    """Of one sentence: probabilities of ``KINDS`` (4,), and what looks like a target."""

    odds: NDArray[float32]
    spans: tuple[str, ...]


@dataclass(frozen=True)
class Watchdog:
    """The embedded classifier."""

    network: Network

    @classmethod
    def load(cls) -> Watchdog:
        """The trained classifier that ships with the package.

        Raises:
            EnvironmentProblem: the package's file is missing or of another version.
        """
        return cls(Network.load())

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
        marked = [reading.spans for reading in single]
        targets, replacement = find_targets(
            kind, words, ordering, history, self._is_request, marked
        )
        return Intent(kind, targets, confidence, replacement)

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
        return (strongest + self._one(whole).odds) / 2, single

    def _one(self, sentence: str) -> _Reading:
        words = words_of(sentence)
        if not words:
            import numpy as np

            return _Reading(np.array([1, 0, 0, 0], dtype=np.float32), ())
        odds, tags = self.network.read(words)
        spans: list[tuple[int, int]] = []
        inside = False
        for word, tag in zip(words, tags.argmax(axis=1), strict=True):
            if tag == 1 or (tag == 2 and not inside):
                spans.append((word.start, word.end))
            elif tag == 2:
                spans[-1] = (spans[-1][0], word.end)
            inside = tag != 0
        return _Reading(odds, tuple(sentence[start:end] for start, end in spans))
