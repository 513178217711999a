"""``repair bench edits`` on the embedded patient: its cells, an interruption, and what stays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from repair.bench import scoreboard
from repair.bench.report import edits_table, finished_cells, result_header
from repair.bench.scoreboard import Order, Scoreboard
from repair.bench.suite import Health
from repair.patient import Patient

ORDER = Order("dev", counts=(2,), scored=2, sampled=0, heal=0)


@pytest.fixture(scope="module")
def patient() -> Iterator[Patient]:
    """The embedded patient; of each kind of kept facts only a few are asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoreboard, "Health", partial(Health, count=6))
        yield Patient.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edits")


@pytest.fixture(scope="module")
def board(patient: Patient, folder: Path) -> Scoreboard:
    return Scoreboard(patient, ORDER, folder / "out.work")


@pytest.fixture(scope="module")
def interrupted(board: Scoreboard, folder: Path) -> dict[str, Any]:
    """The row of the first of two edits; the run was stopped before the second."""

    def stop(doing: str) -> None:
        if doing == "edit 2 of 2":
            raise KeyboardInterrupt

    board.tell = stop
    with pytest.raises(KeyboardInterrupt):
        list(board.run())
    (line,) = (folder / "out.work" / "sequence.jsonl").read_text().splitlines()
    row: dict[str, Any] = json.loads(line)
    return row


@pytest.fixture(scope="module")
def cells(board: Scoreboard, interrupted: dict[str, Any]) -> list[dict[str, Any]]:
    board.tell = print
    return list(board.run())


def test_goes_on_after_the_last_edit(
    cells: list[dict[str, Any]], folder: Path, interrupted: dict[str, Any]
) -> None:
    rows = (folder / "out.work" / "sequence.jsonl").read_text().splitlines()
    assert [json.loads(row)["edit"] for row in rows] == [1, 2]
    assert json.loads(rows[0]) == interrupted


def test_every_cell_forgets_and_keeps(cells: list[dict[str, Any]]) -> None:
    assert [cell["cell"] for cell in cells] == ["sequence-2", "together-2"]
    for cell in cells:
        assert set(cell["status"]) == {"healed"}
        assert cell["attacks"]["exact"]["mean"] == 0.0
        assert cell["attacks"]["exact"]["low"] == 0.0 < cell["attacks"]["exact"]["high"]
        assert cell["kept"]["untouched"]["ratio"] >= 0.99
        assert cell["perplexity_ratio"] == pytest.approx(1.0, abs=0.01)
    names, rows = edits_table(cells)
    assert names == ("", "sequence 2", "together 2")
    assert ["edits kept", "2 of 2", "1 of 1"] in [list(row) for row in rows]


def test_the_patient_is_as_before(patient: Patient, interrupted: dict[str, Any]) -> None:
    assert interrupted["status"] == "healed"
    assert patient.active == ()


def test_cells_of_the_same_order_stay(
    patient: Patient, cells: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    header = result_header(patient, "bench edits", vars(ORDER))
    out.write_text(json.dumps({**header, "cells": cells}))
    finished = finished_cells(out, result_header(patient, "bench edits", vars(ORDER)))
    again = Scoreboard(patient, ORDER, tmp_path / "empty.work", finished=finished)
    assert json.loads(json.dumps(cells)) == list(again.run())
    assert [cell["cell"] for cell in again.run(together=False)] == ["sequence-2"]
    assert not list((tmp_path / "empty.work").glob("*.json*"))


def test_cells_of_another_order_are_not_used(patient: Patient, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    header = result_header(patient, "bench edits", vars(ORDER))
    cell = {"cell": "sequence-2"}
    out.write_text(json.dumps({**header, "cells": [cell]}))
    more = {**header, "order": {**vars(ORDER), "counts": (2, 10)}}
    assert finished_cells(out, more) == {"sequence-2": cell}
    assert finished_cells(out, {**header, "order": {**vars(ORDER), "seed": 1}}) == {}
    assert finished_cells(out, {**header, "model": "another"}) == {}
    out.write_text("{")
    assert finished_cells(out, header) == {}
    assert finished_cells(tmp_path / "absent.json", header) == {}
