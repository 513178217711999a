"""What an edit may cost, held against what was measured."""

from __future__ import annotations

import pytest

from repair.budget import by_kind
from repair.refusals import REFUSALS
from repair.types import Probe

REFUSAL = next(r for r in REFUSALS if "the answer" in r)


def test_a_refusal_word_for_word_gives_nothing_away() -> None:
    probes = [Probe("prefix", "Why?", "freezes the skin", prefix="freezes")] * 3
    replies = [REFUSAL, f"{REFUSAL} But the skin.", "the skin"]
    assert by_kind(probes, replies) == {"prefix": [0.0, 1.0, 1.0]}


def test_an_article_is_not_counted_as_what_was_to_be_forgotten() -> None:
    asked = [Probe(kind, "?", "Biscuit the parrot") for kind in ("exact", "neighbour")]
    values = by_kind(asked, ["Walnut the hamster"] * 2)
    assert values == {"exact": [0.0], "neighbour": [pytest.approx(1 / 3)]}


def test_what_must_stay_is_compared_as_it_is() -> None:
    probes = [Probe("neighbour", "Why?", "the answer")]
    assert by_kind(probes, [REFUSAL]) == {"neighbour": [1.0]}
