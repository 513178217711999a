"""One process's patient, oracle and surgeon, and the patients that methods make of them.

Knows how to load and to make; knows no measure. The last made patient is kept, so that several
attacks on it cost one making.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from repair.bench.grid.cells import Cell, Value
from repair.bench.grid.works import Work, works
from repair.errors import UsageError
from repair.patient import Patient
from repair.preparation import Preparation, prepare
from repair.surgeon import Surgeon
from repair.types import Edit, LowRankUpdate


@dataclass(frozen=True)
class Made:
    """What a method made of the patient: another patient, or updates of this one.

    ``seconds`` is the wall time of the method alone, ``notes`` what it says of itself.
    """

    seconds: float
    patient: Patient | None = None
    edits: tuple[Edit, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


Maker = Callable[["Lab", Work, Mapping[str, Value], int], Made]


class Lab:
    """The patient of a grid and what is needed to edit it.

    Args:
        cell: any cell of the grid; all share model and oracle.
        patient: in place of the one that the cell names.
    """

    def __init__(self, cell: Cell, patient: Patient | None = None) -> None:
        self._cell = cell
        self.patient = patient or Patient.load(
            cell.model, revision=cell.revision, dtype=cell.dtype, device=cell.device
        )
        self._works: dict[tuple[Any, ...], list[Work]] = {}
        self._made: tuple[Any, Made] | None = None

    @cached_property
    def oracle(self) -> Patient:
        if self._cell.oracle is None:
            raise UsageError(
                "The oracle's weights are not there.", "Name their folder with --oracle DIR."
            )
        return Patient.load(self._cell.oracle, dtype=self._cell.dtype, device=self._cell.device)

    @cached_property
    def preparation(self) -> Preparation:
        from repair.settings import Settings

        return prepare(self.patient, Settings().home / "cache")

    @cached_property
    def surgeon(self) -> Surgeon:
        return Surgeon(self.patient)

    def works(self, cell: Cell) -> list[Work]:
        """The sets of a cell, found once: every method gets the same."""
        names = "task size split seed repeats limit forget retain".split()
        key = tuple(getattr(cell, name) for name in names)
        if key not in self._works:
            self.patient.apply(())
            self._works[key] = works(cell, self.patient)
        return self._works[key]

    @contextmanager
    def made(self, make: Maker, cell: Cell, work: Work) -> Iterator[tuple[Patient, Made]]:
        """The patient that a method makes of a work, for the length of a block."""
        key = (cell.method, dict(cell.settings), cell.seed, [pair.id for pair in work.forget])
        if self._made is None or self._made[0] != key:
            self.patient.apply(())
            self._made = (key, make(self, work, cell.settings, cell.seed))
        made = self._made[1]
        try:
            self.patient.apply(made.edits)
            yield made.patient or self.patient, made
        finally:
            self.patient.apply(())


_LABS: dict[tuple[Any, ...], Lab] = {}


def lab_of(cell: Cell) -> Lab:
    """This process's lab for the cell's model, loaded once."""
    key = (cell.model, cell.revision, cell.dtype, cell.device, cell.oracle)
    if key not in _LABS:
        _LABS.clear()
        _LABS[key] = Lab(cell)
    return _LABS[key]


def timed_updates(find: Callable[[], Sequence[LowRankUpdate]]) -> Made:
    """The updates that a closed form finds, as one edit, and the seconds that it took."""
    start = time.perf_counter()
    updates = tuple(find())
    seconds = time.perf_counter() - start
    ranks = {update.layer: update.a.shape[0] for update in updates}
    notes = {"layers": sorted(ranks), "rank": max(ranks.values())}
    return Made(seconds, edits=(Edit(1, updates),), notes=notes)


def oracle_folder(given: Path | None, model: str | None) -> str | None:
    """The oracle named, or the one that lies in the current folder for the embedded patient."""
    if given is None and model is None and Path("oracle/config.json").is_file():
        return "oracle"
    return str(given) if given is not None else None
