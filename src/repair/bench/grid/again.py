"""Measure a result's cell again, and say which figures differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from repair.bench.grid.cells import Cell
from repair.bench.grid.lab import Lab
from repair.bench.grid.measuring import measured
from repair.bench.grid.works import provenance_of
from repair.checkpoint import find_checkpoint
from repair.errors import UsageError

# Means are sums of the same numbers; another order of adding moves their last digits.
TOLERANCE = 1e-6
TIMED = "seconds"


def measured_again(old: Mapping[str, Any], lab: Lab | None = None) -> dict[str, Any]:
    """A new result of the same cell.

    Raises:
        UsageError: the model or the data are no longer those of the result.
    """
    cell = Cell.from_json(old["cell"])
    if lab is None and find_checkpoint(cell.model, cell.revision).content_hash() != cell.model_hash:
        raise UsageError(
            f"The result was measured on a model {cell.model_hash[:12]}, which this is not.",
            "Give the same weights, or run the cell anew.",
        )
    if provenance_of(cell) != dict(cell.data):
        raise UsageError("The files of the result have changed since.", "Run the cell anew.")
    return measured(cell, lab)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Means that differ, by name, as (before, now); seconds are never the same."""
    before, after = dict(_means(old)), dict(_means(new))
    nothing = float("nan")
    return {
        name: (before.get(name, nothing), after.get(name, nothing))
        for name in before | after
        if not abs(before.get(name, nothing) - after.get(name, nothing)) <= TOLERANCE
    }


def _means(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    parts = {"": result.get("measures", {}), **result.get("attacks", {})}
    for family, scores in parts.items():
        for name, score in scores.items():
            if name != TIMED:
                yield f"{family} {name}".strip(), score["mean"]
