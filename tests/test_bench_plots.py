"""The report's pictures and headings: every method has a mark of its own, and one set is a set."""

from __future__ import annotations

import re
from typing import Any

import pytest

from repair.bench.grid.methods import METHODS
from repair.bench.grid.plots import pareto
from repair.bench.grid.tables import heading

MEASURE = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 10}


def _row(method: str, sets: int = 1) -> dict[str, Any]:
    return {
        "cell": {"method": method, "forget": None, "split": "test"},
        "counts": {"sets": sets, "forgotten": 10 * sets},
        "measures": {"forget_rouge": MEASURE, "retain_rouge": MEASURE},
    }


def test_no_two_methods_are_marked_alike() -> None:
    drawn = pareto([_row(name) for name in METHODS], "retain_rouge")
    for name in METHODS:
        assert f">{METHODS[name].title}</text>" in drawn
    legend = drawn[drawn.index('id="legend') :]
    marks = re.findall(r'<use xlink:href="#(m\w+)"[^>]* style="([^"]+)"', legend)
    assert len(set(marks)) == len(marks) == len(METHODS)


@pytest.mark.parametrize(
    ("size", "sets", "said"),
    [("10", 1, "1 set)"), ("10", 2, "2 sets)"), ("full", 1, "10 facts)")],
)
def test_a_heading_counts_sets_or_facts(size: str, sets: int, said: str) -> None:
    assert heading(size, "personal", [_row("repair", sets)]).endswith(said)
