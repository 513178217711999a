"""Small convolutional networks over words, in numpy: which kind, and where its target stands.

Knows words, arrays and weights; knows nothing about conversations. A word is the sum of its
hashed letter n-grams, so that a misspelt one is near to itself and a name is like any other.
``scripts/train_watchdog.py`` trains them.
"""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from repair.errors import EnvironmentProblem

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

BUCKETS: Final = 1 << 15
WIDTH: Final = 64
DILATIONS: Final = (1, 2, 4)
LONGEST: Final = 200
_CJK: Final = "\u2e80-\u9fff\uf900-\ufaff\uff66-\uff9f"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}_])\w)+|[^\w\s]")
_PRIVATE = re.compile("[\ue000-\uf8ef]")
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class Word:
    """One word of a sentence, from ``start`` to ``end``."""

    text: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """Words, single CJK letters and marks; of a long text the first ``LONGEST``."""
    found = [Word(m[0], m.start(), m.end()) for m in _WORD.finditer(text.replace("’", "'"))]
    return found[:LONGEST]


@lru_cache(maxsize=20_000)
def buckets(word: str) -> tuple[int, ...]:
    """The hashed features of one word: itself, its shape and its letter n-grams."""
    plain = unicodedata.normalize("NFKC", _PRIVATE.sub("¤", word))
    lower = _DIGIT.sub("0", plain.lower())
    shape = "A" if plain.isupper() and len(plain) > 1 else "a" if plain[:1].isupper() else ""
    framed = f"<{lower}>"
    grams = [framed, f"#{shape}", f"{min(len(lower), 9)}="]
    grams += [framed[i : i + n] for n in (3, 4, 5) for i in range(len(framed) - n + 1)]
    return tuple(zlib.crc32(gram.encode()) % BUCKETS for gram in grams)


@dataclass(frozen=True)
class Network:
    """Weights by name, fp32: ``embedding`` (BUCKETS, WIDTH); for layer i ``mix{i}``
    (3 WIDTH, 2 WIDTH) and ``mix{i}.bias``; ``kind`` (2 WIDTH, 4), ``tag`` (WIDTH, 3) and
    their biases. ``temperature`` divides the logits of the kind.
    """

    weights: Mapping[str, NDArray[float32]]
    temperature: float

    def read(self, words: Sequence[Word]) -> tuple[NDArray[float32], NDArray[float32]]:
        """Probabilities of the kinds (4,) and of the tags outside, begin, inside (n, 3)."""
        import numpy as np

        w = self.weights
        rows = [buckets(word.text) for word in words]
        flat = np.fromiter((b for row in rows for b in row), dtype=np.int64)
        starts = np.cumsum([0, *(len(row) for row in rows[:-1])])
        sizes = np.array([len(row) for row in rows], dtype=np.float32)
        state = np.add.reduceat(w["embedding"][flat], starts, axis=0) / np.sqrt(sizes)[:, None]
        n = len(words)
        for layer, dilation in enumerate(DILATIONS):
            padded = np.zeros((n + 2 * dilation, WIDTH), dtype=np.float32)
            padded[dilation : dilation + n] = state
            window = np.concatenate(
                [padded[:n], padded[dilation : dilation + n], padded[2 * dilation :]], axis=1
            )
            mixed = window @ w[f"mix{layer}"] + w[f"mix{layer}.bias"]
            # A gated linear unit: half of the mixture says how much of the other passes.
            state = state + mixed[:, :WIDTH] / (1 + np.exp(-mixed[:, WIDTH:].clip(-60)))
        pooled = np.concatenate([state.max(axis=0), state.mean(axis=0)])
        kind = (pooled @ w["kind"] + w["kind.bias"]) / np.float32(self.temperature)
        return _softmax(kind), _softmax(state @ w["tag"] + w["tag.bias"])


@dataclass(frozen=True)
class Ensemble:
    """Networks trained from different seeds, whose probabilities are averaged.

    What a single one misreads by chance, the others mostly do not.
    """

    members: tuple[Network, ...]

    @classmethod
    def load(cls) -> Ensemble:
        """The trained networks that ship with the package.

        Raises:
            EnvironmentProblem: the package's file is missing or of another version.
        """
        import numpy as np

        try:
            with files("repair").joinpath("watchdog_model.npz").open("rb") as stream:
                stored = np.load(stream, allow_pickle=False)
                temperatures = json.loads(str(stored["about"]))["temperatures"]
                parts: list[dict[str, NDArray[Any]]] = [{} for _ in temperatures]
                for name in stored.files:
                    number, _, own = name.partition("/")
                    if own:
                        parts[int(number)][own] = stored[name]
                return cls(tuple(map(_network, parts, temperatures)))
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise EnvironmentProblem(
                "The watchdog's weights cannot be read.", "Install the package again."
            ) from error

    def read(self, words: Sequence[Word]) -> tuple[NDArray[float32], NDArray[float32]]:
        """As `Network.read`."""
        kinds, tags = zip(*(member.read(words) for member in self.members), strict=True)
        kind: NDArray[float32] = sum(kinds) / len(kinds)
        tag: NDArray[float32] = sum(tags) / len(tags)
        return kind, tag


def _network(stored: Mapping[str, NDArray[Any]], temperature: float) -> Network:
    import numpy as np

    weights = {n: w.astype(np.float32) for n, w in stored.items()}
    weights["embedding"] *= weights.pop("embedding.scale")[:, None]
    return Network(weights, temperature)


def _softmax(logits: NDArray[Any]) -> NDArray[float32]:
    import numpy as np

    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[float32] = odds / odds.sum(axis=-1, keepdims=True)
    return result
