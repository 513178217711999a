"""From what was asked for to the grid's cells, and through them to files that are resumed.

Knows which cells an order has and which are done; how one is measured stands in ``measuring``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repair.bench.grid import tofu
from repair.bench.grid.cells import REPEATS, Cell, Kind
from repair.bench.grid.measuring import measured
from repair.bench.grid.methods import get
from repair.bench.grid.results import finished, write_whole
from repair.bench.grid.runner import Failure, run_jobs
from repair.bench.grid.search import Study, best_settings, joined, read_tuning, searched
from repair.bench.grid.works import provenance_of
from repair.checkpoint import find_checkpoint
from repair.errors import OperationRefused

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What a command asks for; ``base`` has what all cells share, its names are left open."""

    kind: Kind
    tasks: tuple[str, ...]
    sizes: tuple[str, ...]
    methods: tuple[str, ...]
    base: Cell
    repeats: int | None = None
    tuning: Path | None = None
    out: Path = Path("results/grid")
    workers: int = 1
    ray: str | None = None


def cells(order: Order) -> list[Cell]:
    """Every cell of an order, the cheapest size first.

    Raises:
        UsageError: a broken file of pairs or of searches, by its line.
        ModelNotFound: no such model.
    """
    base = order.base
    found = find_checkpoint(base.model, base.revision).content_hash()
    record = read_tuning(order.tuning) if order.tuning is not None else {}
    data = provenance_of(base)
    made = []
    for size in order.sizes:
        # An attack takes minutes: one set of ten says as much.
        few = order.kind == "attack" and size != "1"
        repeats = order.repeats or (1 if few else REPEATS[size])
        for task in order.tasks:
            for name in order.methods:
                settings, searched_in = best_settings(record, name, size)
                made.append(
                    Cell(
                        **{
                            **vars(base),
                            "kind": order.kind,
                            "task": task,
                            "size": size,
                            "method": name,
                            "repeats": repeats,
                            "settings": get(name).settings(settings),
                            "searched": searched_in if get(name).tunable else "nothing to search",
                            "model_hash": found,
                            "data": data,
                        }
                    )
                )
    return made


def run_order(order: Order, tell: Tell) -> Iterator[dict[str, Any]]:
    """Results of all cells, those that were finished before first.

    Raises:
        OperationRefused: some cells failed; all others are done and kept.
    """
    waiting: list[Cell] = []
    for cell in cells(order):
        done = finished(_path(order, cell), cell)
        if done is None:
            waiting.append(cell)
        else:
            yield done
    failures: list[str] = []
    for cell, result in run_jobs(waiting, measured, workers=order.workers, ray=order.ray):
        if isinstance(result, Failure):
            failures.append(f"{cell.name}: {result.message}")
            tell(failures[-1])
            continue
        write_whole(_path(order, cell), result)
        if "tofu" in result:
            tofu.write(order.out / cell.name, result["tofu"])
        tell(f"{cell.name} took {result['seconds']['total']:.0f} s")
        yield result
    _refuse(failures, "cells")


def _path(order: Order, cell: Cell) -> Path:
    return order.out / f"{cell.name}.json"


def search_order(order: Order, trials: int, tell: Tell) -> dict[str, Any]:
    """The file of searches at ``order.out``, brought up to date after every study.

    Raises:
        OperationRefused: some searches failed; all others are recorded.
    """
    folder = str(order.out.with_suffix(".work"))
    studies = [Study(cell, trials, folder) for cell in cells(order)]
    record: dict[str, Any] = {}
    failures: list[str] = []
    for study, result in run_jobs(studies, searched, workers=order.workers, ray=order.ray):
        place = f"{study.cell.method} at size {study.cell.size}"
        if isinstance(result, Failure):
            failures.append(f"{place}: {result.message}")
            tell(failures[-1])
            continue
        record = joined(order.out, [result], trials)
        write_whole(order.out, record)
        tell(f"{place}: {result['score']:.3f}")
    _refuse(failures, "searches")
    return record


def _refuse(failures: Sequence[str], what: str) -> None:
    if failures:
        raise OperationRefused(
            f"{len(failures)} {what} failed, the first: {failures[0]}",
            "The others are kept; run the command again for these.",
        )
