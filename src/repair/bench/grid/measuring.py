"""Measure one cell from the start to its result; writes no file.

Knows the order: sets of facts, a patient made of each, questions, sums. What is asked stands in
``measures``, how a patient is made in ``methods``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from repair.bench.datasets.data import provenances
from repair.bench.datasets.records import Pair
from repair.bench.grid.cells import Cell
from repair.bench.grid.lab import Lab, lab_of
from repair.bench.grid.measures import Asked, measure, summed_up
from repair.bench.grid.methods import get
from repair.bench.grid.results import SCHEMA
from repair.bench.report import result_header


def measured(cell: Cell, lab: Lab | None = None) -> dict[str, Any]:
    """The result of a cell, as its file has it.

    Raises:
        UsageError: bad data or settings, or an oracle that is not there.
        OperationRefused: the method diverged.
    """
    if cell.kind == "attack":
        # Below, because the battery makes its patients and its header here.
        from repair.bench.attacks.battery import attacked

        return attacked(cell, lab or lab_of(cell))
    return _run(cell, lab or lab_of(cell))


def header(cell: Cell, lab: Lab) -> dict[str, Any]:
    """The top of a cell's result: who measured what with which versions."""
    order = cell.to_json()
    top = result_header(lab.patient, f"bench {cell.kind}", {})
    top.pop("order")
    return {**top, "schema": SCHEMA, "cell": order, "oracle": _oracle_hash(cell, lab)}


def _oracle_hash(cell: Cell, lab: Lab) -> str | None:
    beside = cell.method == "oracle" or (cell.tofu and cell.oracle)
    return lab.oracle.content_hash if beside else None


def _run(cell: Cell, lab: Lab) -> dict[str, Any]:
    begun = time.perf_counter()
    method, works = get(cell.method), lab.works(cell)
    asked: list[list[Asked]] = []
    stories: list[list[Any]] = []
    seconds: list[float] = []
    notes: list[dict[str, Any]] = []
    tofu: dict[str, Any] = {}
    for work in works:
        with lab.made(method.make, cell, work) as (patient, made):
            told, losses = measure(patient, work, cell.seed)
            if cell.tofu and not tofu:
                from repair.bench.grid.tofu import evaluation

                tofu = evaluation(patient, work, lab.oracle if cell.oracle else None)
        asked.append(told)
        stories.append(losses)
        seconds.append(made.seconds)
        notes.append(dict(made.notes))
    every: list[Pair] = [p for w in works for p in (*w.forget, *w.retain, *w.neighbours)]
    result: dict[str, Any] = {
        **header(cell, lab),
        "data": [origin.to_json() for origin in provenances(every)],
        "counts": {
            "sets": len(works),
            "forgotten": sum(len(work.forget) for work in works),
            "buffer": len(works[0].buffer),
            **Counter(a.group for told in asked for a in told),
        },
        "seconds": {"methods": seconds, "total": round(time.perf_counter() - begun, 2)},
        "notes": notes,
        "measures": summed_up(asked, stories, seconds),
        "transcript": [row for number, told in enumerate(asked) for row in _shown(told, number)],
    }
    return {**result, "tofu": tofu} if tofu else result


def _shown(told: Sequence[Asked], number: int) -> list[dict[str, Any]]:
    """All about forgotten facts; of kept ones only what was not recalled in full."""
    return [a.to_json(number) for a in told if a.group == "forget" or a.score < 1.0]
