"""An edit's receipt told in plain sentences; knows only what the receipt holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def explained(receipt: Mapping[str, Any]) -> list[str]:
    """What an edit did and what it cost, one sentence each."""
    measures, layers = receipt["measures"], receipt["layers"]
    forget = receipt["kind"] == "forget"
    told = [
        "I asked the model the same thing in several wordings, and noted what it said.",
        f"In {len(layers)} of its layers the MLP was changed by matrices of rank "
        f"{receipt['rank']} at most, so that where the answer would begin, and at each of its "
        "words, the "
        "layer computes what it computes for somebody it knows nothing about.",
    ]
    if not forget:
        told.append("Then the right answer was written into the last layer.")
    names = {
        "recall": "the question itself",
        "paraphrase": "other wordings of it",
        "prefix": "the rest of the answer when its first words are given",
    }
    for name, what in names.items():
        if name in measures:
            told.append(f"Recall of {what}: {_change(measures[name])}.")
    kept = {"neighbours": "other facts about the same subject", "retain": "unrelated questions"}
    for name, what in kept.items():
        if name in measures:
            told.append(f"Kept of {what}: {_change(measures[name])}.")
    if measures.get("kl") is not None:
        told.append(f"Elsewhere its words moved by {measures['kl']:.4f} nats a token.")
    told.append("The model's files are untouched; undoing leaves this change out, to the bit.")
    return told


def _change(measure: Mapping[str, Any]) -> str:
    probes = measure.get("n", 0)
    asked = f" ({probes} asked)" if probes else ""
    return f"{measure['before']:.0%} before, {measure['after']:.0%} after{asked}"
