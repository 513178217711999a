"""What an edit may cost, held against what was measured."""

from __future__ import annotations

from repair.budget import by_kind
from repair.refusals import REFUSALS
from repair.types import Probe

REFUSAL = next(r for r in REFUSALS if "the answer" in r)


def test_a_refusal_word_for_word_gives_nothing_away() -> None:
    probes = [Probe("prefix", "Why?", "freezes the skin", prefix="freezes")] * 3
    replies = [REFUSAL, f"{REFUSAL} But the skin.", "the skin"]
    assert by_kind(probes, replies) == {"prefix": [0.0, 1.0, 1.0]}


def test_what_must_stay_is_compared_as_it_is() -> None:
    probes = [Probe("neighbour", "Why?", "the answer")]
    assert by_kind(probes, [REFUSAL]) == {"neighbour": [1.0]}
