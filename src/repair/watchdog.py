"""Reads one user turn: an order to forget, correct or restore, or none; and about what.

Knows text and the history of the conversation; knows nothing about the patient, its facts
or edits. Character and word n-grams, hashed, into a multinomial logistic regression whose
weights ``scripts/train_watchdog.py`` learned from the utterances of ``repair.requests``.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from repair.errors import EnvironmentProblem
from repair.targets import find_targets
from repair.types import Intent, IntentKind, Message
from repair.utterance import OwnWords, own_words

if TYPE_CHECKING:
    from numpy import bool_, float32, int64
    from numpy.typing import NDArray

KINDS: Final[tuple[IntentKind, ...]] = ("none", "forget", "correct", "restore")
BUCKETS: Final = 1 << 18
_LENGTHS: Final = (2, 3, 4, 5)
_PRIME: Final = 0x100000001B3
_MIX: Final = 0x9E3779B97F4A7C15
# A whole message is read beside its sentences while it is short enough to be one thought.
_WHOLE: Final = 500
_WORD = re.compile(r"\w+|[^\w\s]")
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_DIGIT = re.compile(r"\d")
_MASK: Final = "¤"
_LATIN_END: Final = "\u0250"


def features(
    segments: Sequence[str], vocabulary: frozenset[str]
) -> tuple[NDArray[int64], NDArray[int64]]:
    """Hashed n-grams of each segment; words outside ``vocabulary`` count as one word.

    A name that training never met is then as good as one that it met.

    Returns:
        ``(owner, bucket)``, both (n,) int64: feature i belongs to ``segments[owner[i]]``.
    """
    import numpy as np

    prepared = [_normal(segment, vocabulary) for segment in segments]
    texts = [f" {text} " for text, _ in prepared]
    points = np.frombuffer("".join(texts).encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    owners: list[NDArray[int64]] = []
    buckets: list[NDArray[int64]] = []
    for length in _LENGTHS:
        count = len(points) - length + 1
        if count <= 0:
            continue
        hashed = np.full(count, length, dtype=np.uint64)
        for offset in range(length):
            hashed = hashed * np.uint64(_PRIME) + points[offset : offset + count]
        hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(_MIX)
        inside: NDArray[bool_] = owner[:count] == owner[length - 1 :]
        owners.append(owner[:count][inside])
        buckets.append((hashed >> np.uint64(46)).astype(np.int64)[inside])
    for number, (_, words) in enumerate(prepared):
        grams = np.fromiter(_word_buckets(words), dtype=np.int64)
        owners.append(np.full(len(grams), number))
        buckets.append(grams)
    return np.concatenate(owners), np.concatenate(buckets)


def _normal(text: str, vocabulary: frozenset[str]) -> tuple[str, list[str]]:
    """The text for character n-grams, where unknown capitalised words are masked, and its
    words, where all unknown ones are masked and several in a row are one."""
    text = unicodedata.normalize("NFKC", _PRIVATE.sub(_MASK, text)).replace("’", "'")
    text = _DIGIT.sub("0", " ".join(text.split()))
    shouted = text.isupper()
    words: list[str] = ["^"]

    def mask(match: re.Match[str]) -> str:
        word = match[0]
        lower = word.lower()
        unknown = word[0] < _LATIN_END and word[0].isalpha() and lower not in vocabulary
        if not unknown:
            words.append(lower)
        elif words[-1] != _MASK:
            words.append(_MASK)
        # A misspelt verb at the beginning must keep its letters; a name inside need not.
        if unknown and match.start() and word[0].isupper() and not shouted:
            return _MASK
        return lower

    return _WORD.sub(mask, text), [*words, "$"]


def words_of(text: str) -> list[str]:
    """The words of ``text``, as a vocabulary lists them."""
    return [word.lower() for word in _WORD.findall(text) if word[0].isalpha()]


def _word_buckets(words: Sequence[str]) -> list[int]:
    grams = [*words, *map(" ".join, pairwise(words))]
    grams += map(" ".join, zip(words, words[1:], words[2:], strict=False))
    return [zlib.crc32(gram.encode()) % BUCKETS for gram in grams]


@dataclass(frozen=True)
class Watchdog:
    """The embedded classifier.

    ``weights`` (4, BUCKETS) fp32 and ``bias`` (4,) fp32 are one row per kind, in the order
    of ``KINDS``; ``temperature`` divides the logits so that confidence is calibrated;
    ``vocabulary`` are the words, in lower case, that training met often.
    """

    weights: NDArray[float32]
    bias: NDArray[float32]
    temperature: float
    vocabulary: frozenset[str]

    @classmethod
    def load(cls) -> Watchdog:
        """The trained classifier that ships with the package.

        Raises:
            EnvironmentProblem: the package's file is missing or of another version.
        """
        import numpy as np

        try:
            with files("repair").joinpath("watchdog_model.npz").open("rb") as stream:
                stored = np.load(stream, allow_pickle=False)
                about = json.loads(str(stored["about"]))
                weights = np.zeros((len(KINDS), BUCKETS), dtype=np.float32)
                weights[:, stored["bucket"]] = stored["weight"].astype(np.float32)
                words = frozenset(str(stored["vocabulary"]).split())
                bias = stored["bias"].astype(np.float32)
                return cls(weights, bias, about["temperature"], words)
        except (OSError, KeyError, ValueError) as error:
            raise EnvironmentProblem(
                "The watchdog's weights cannot be read.", "Install the package again."
            ) from error

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
        overall, single = self._probabilities(words)
        kind = KINDS[int(overall.argmax())]
        confidence = round(float(overall.max()), 4)
        if kind == "none":
            return Intent("none", (), confidence)
        ordering = [int(row.argmax()) == KINDS.index(kind) for row in single]
        targets, replacement = find_targets(kind, words, ordering, history, self._is_request)
        return Intent(kind, targets, confidence, replacement)

    def _is_request(self, text: str) -> bool:
        words = own_words(text)
        return bool(words.sentences) and int(self._probabilities(words)[0].argmax()) != 0

    def _probabilities(self, words: OwnWords) -> tuple[NDArray[float32], NDArray[float32]]:
        """Of the message (4,) and of each sentence (s, 4)."""
        sentences = words.sentences
        whole = " ".join(sentences)
        if len(sentences) == 1:
            single = self.probabilities(sentences)
            return single[0], single
        if len(whole) > _WHOLE:
            single = self.probabilities(sentences)
            return single[single[:, 0].argmin()], single
        every = self.probabilities([*sentences, whole])
        single = every[:-1]
        strongest = single[single[:, 0].argmin()]
        # One sentence out of many is easily misread; the whole message has to agree.
        return (strongest + every[-1]) / 2, single

    def probabilities(self, segments: Sequence[str]) -> NDArray[float32]:
        """Of each segment read alone: (s, 4) fp32, columns in the order of ``KINDS``."""
        import numpy as np

        owner, bucket = features(segments, self.vocabulary)
        count = np.bincount(owner, minlength=len(segments)).clip(1)
        logits = np.stack(
            [np.bincount(owner, row[bucket], minlength=len(segments)) for row in self.weights],
            axis=1,
        )
        logits = logits / np.sqrt(count)[:, None] + self.bias
        logits = (logits - logits.max(axis=1, keepdims=True)) / self.temperature
        odds = np.exp(logits)
        result: NDArray[float32] = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        return result
