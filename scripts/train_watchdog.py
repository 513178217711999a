"""Trains the embedded watchdog and writes ``src/repair/watchdog_model.npz``.

    python scripts/train_watchdog.py [--count 60000] [--seed 0]

First on four fifths of the wordings, to score the rest and to fit the temperature on
wordings that training never saw; then on all of them. About two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from repair.requests import Utterance, generate
from repair.requests.names import FIRST, LAST
from repair.utterance import own_words
from repair.watchdog import BUCKETS, KINDS, features, words_of

TARGET = Path(__file__).parents[1] / "src" / "repair" / "watchdog_model.npz"
STRENGTH = 60.0  # Inverse of the L2 penalty.
COMMON = 15  # A word in fewer utterances is treated as a name.


def matrix(texts: Sequence[str], vocabulary: frozenset[str]) -> csr_matrix:
    """Counts over the square root of their sum, as ``Watchdog`` applies them: (n, BUCKETS)."""
    owner, bucket = features(texts, vocabulary)
    total = np.bincount(owner, minlength=len(texts)).clip(1)
    values = (1.0 / np.sqrt(total))[owner]
    return csr_matrix((values, (owner, bucket)), shape=(len(texts), BUCKETS))


def examples(seed: int, count: int) -> list[Utterance]:
    """Generated utterances as the classifier meets them: stripped, quotations masked."""
    made = []
    for utterance in generate(seed, count):
        text = " ".join(own_words(utterance.text).sentences)
        if text:
            made.append(Utterance(text, utterance.kind, utterance.frame))
    return made


def vocabulary_of(data: Sequence[Utterance]) -> frozenset[str]:
    """Words of at least ``COMMON`` utterances that are not names."""
    counts = Counter(word for utterance in data for word in set(words_of(utterance.text)))
    return frozenset(
        word
        for word, count in counts.items()
        if count >= COMMON and word.lower() < "\u0250" and word.capitalize() not in FIRST + LAST
    )


def fit(data: Sequence[Utterance], vocabulary: frozenset[str]) -> LogisticRegression:
    # The limit on iterations is an early stop: the warning that it was met is expected.
    model: LogisticRegression = LogisticRegression(C=STRENGTH, max_iter=120, tol=1e-7)
    model.fit(
        matrix([utterance.text for utterance in data], vocabulary),
        [KINDS.index(utterance.kind) for utterance in data],
    )
    return model


def temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """The divisor of the logits with the least log loss."""

    def loss(divisor: float) -> float:
        scaled = logits / divisor
        top = scaled.max(axis=1)
        total = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top
        return float(np.mean(total - scaled[np.arange(len(truth)), truth]))

    return float(minimize_scalar(loss, bounds=(0.2, 5.0), method="bounded").x)


def held_out(utterance: Utterance) -> bool:
    return zlib.crc32(utterance.frame.encode()) % 5 == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = examples(options.seed, options.count)
    unseen = [utterance for utterance in data if held_out(utterance)]
    seen = [utterance for utterance in data if not held_out(utterance)]
    model = fit(seen, vocabulary_of(seen))
    inputs = matrix([utterance.text for utterance in unseen], vocabulary_of(seen))
    logits = model.decision_function(inputs)
    truth = np.array([KINDS.index(utterance.kind) for utterance in unseen])
    score = f1_score(truth, logits.argmax(axis=1), average="macro")
    divisor = temperature(logits, truth)
    print(f"macro-F1 on {len(unseen)} utterances of unseen wordings: {score:.4f}")
    vocabulary = vocabulary_of(data)
    model = fit(data, vocabulary)
    used = np.flatnonzero(np.abs(model.coef_).max(axis=0) > 0.02)
    about = {
        "version": 1,
        "seed": options.seed,
        "count": options.count,
        "unseen_wordings_macro_f1": round(float(score), 4),
        "temperature": round(divisor, 3),
    }
    np.savez_compressed(
        TARGET,
        bucket=used.astype(np.int32),
        weight=model.coef_[:, used].astype(np.float16),
        bias=model.intercept_.astype(np.float32),
        vocabulary=np.array(" ".join(sorted(vocabulary))),
        about=np.array(json.dumps(about)),
    )
    print(json.dumps(about), f"{TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
