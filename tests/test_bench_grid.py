"""The grid on a tiny patient and own pairs: cells, methods, results, resuming, measuring again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from repair.bench.grid import again, results
from repair.bench.grid.cells import Cell, chosen
from repair.bench.grid.lab import Lab
from repair.bench.grid.measures import MEASURES, balance, questions
from repair.bench.grid.measuring import measured
from repair.bench.grid.methods import METHODS, get
from repair.bench.grid.runner import Failure, run_jobs
from repair.bench.grid.works import works
from repair.bench.metrics import Score
from repair.errors import DiskFull, EnvironmentProblem, NotFinite, UsageError
from repair.patient import Patient
from tests.bench_files import as_lines, refused
from tests.bench_grid import FORGET, RETAIN, grid_cell, grid_lab

QUICK: Mapping[str, Mapping[str, float]] = {"rmu": {"steps": 2.0}}


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return grid_cell(tmp_path)


@pytest.fixture
def lab(cell: Cell) -> Lab:
    return grid_lab(cell)


def weights(patient: Patient) -> list[torch.Tensor]:
    return [parameter.clone() for parameter in patient.model.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def with_method(cell: Cell, name: str) -> Cell:
    quick = {"epochs": 1.0} if "epochs" in get(name).defaults else {}
    if name == "paper":
        quick = {"strength": 1.0}
    settings = get(name).settings({**quick, **QUICK.get(name, {})})
    return replace(cell, method=name, settings=settings)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_makes_a_cell_and_leaves_the_patient_as_it_was(
    name: str, cell: Cell, lab: Lab
) -> None:
    before = weights(lab.patient)
    result = measured(with_method(cell, name), lab)
    assert same(before, weights(lab.patient))
    assert lab.patient.active == ()
    assert result["counts"]["forgotten"] == result["counts"]["sets"] == 1
    assert set(result["measures"]) <= set(MEASURES)
    for measure in ("forget_accuracy", "retain_rouge", "forget_choice", "perplexity", "seconds"):
        score = result["measures"][measure]
        assert score["low"] <= score["mean"] <= score["high"]
    assert result["measures"]["forget_rouge"]["n"] == 1
    # Not written as NaN or Infinity, which no other reader of JSON takes.
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("name", ["ga", "stamp", "memit"])
def test_a_method_changes_what_is_measured(name: str, cell: Cell, lab: Lab) -> None:
    chosen_cell = with_method(cell, name)
    before = weights(lab.patient)
    with lab.made(get(name).make, chosen_cell, lab.works(cell)[0]) as (patient, made):
        assert not same(before, weights(patient))
        assert made.seconds > 0


def test_the_last_made_patient_is_kept_and_another_work_makes_another(cell: Cell, lab: Lab) -> None:
    first, second = lab.works(replace(cell, repeats=2))
    stamp = with_method(cell, "stamp")
    with lab.made(get("stamp").make, stamp, first) as (_, one):
        pass
    with lab.made(get("stamp").make, stamp, first) as (_, other):
        assert other is one
    with lab.made(get("stamp").make, stamp, second) as (_, third):
        assert third is not one


def test_what_is_forgotten_trained_on_and_asked_are_apart(cell: Cell, lab: Lab) -> None:
    for work in works(replace(cell, size="full"), lab.patient):
        sides = [{p.question for p in side} for side in (work.forget, work.buffer, work.retain)]
        assert len(work.forget) == len(FORGET)
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        assert {p.subject for p in work.neighbours} <= {p.subject for p in work.forget}
        kinds = {(a.group, a.question.kind) for a in questions(work, 0)}
        assert {("forget", "paraphrase"), ("forget", "choice"), ("forget", "prefix")} <= kinds
        assert all(a.question.kind != "choice" for a in questions(work, 0, brief=True))


def test_the_balance_of_a_search_punishes_both_failures() -> None:
    def score(mean: float) -> Score:
        return {"mean": mean, "low": mean, "high": mean, "n": 1}

    def value(forget: float, retain: float) -> float:
        return balance({"forget_rouge": score(forget), "retain_rouge": score(retain)})

    assert value(0.0, 1.0) == 1.0
    assert value(1.0, 1.0) == value(0.0, 0.0) == 0.0
    assert value(0.5, 1.0) == pytest.approx(2 / 3)


# Results


def test_a_result_is_written_whole_read_back_and_measured_again(
    cell: Cell, lab: Lab, tmp_path: Path
) -> None:
    stamp = with_method(cell, "stamp")
    stamp = replace(stamp, data={str(cell.forget): "x"})
    path = tmp_path / f"{stamp.name}.json"
    results.write_whole(path, measured(stamp, lab))
    assert [file.name for file in tmp_path.glob(".*")] == []
    old = results.read_result(path)
    assert results.finished(path, stamp) == old
    assert results.finished(path, replace(stamp, seed=1)) is None
    assert results.finished(tmp_path / "none.json", stamp) is None
    with pytest.raises(UsageError, match="have changed"):
        again.measured_again(old, lab)
    new = measured(stamp, lab)
    assert again.differences(old, new) == {}
    new["measures"]["retain_rouge"]["mean"] += 0.5
    assert set(again.differences(old, new)) == {"retain_rouge"}
    assert Cell.from_json(old["cell"]) == stamp


def test_what_is_not_a_result_of_this_version_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run-x.json"
    cases = {
        '{"schema": 2,\n "cell": }': f"{path}:2: not JSON",
        '{"schema": 1}': "has the schema 1, and this version reads 2",
        '{"schema": 2}': 'the field "command" is missing',
        "[]": f"{path}:1: not a JSON object",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            results.read_result(path)
        assert message in str(caught.value)
    with pytest.raises(UsageError, match="no result"):
        results.read_result(tmp_path / "none.json")
    with pytest.raises(UsageError, match="no folder"):
        results.read_folder(tmp_path / "none")
    path.unlink()
    with pytest.raises(UsageError, match="has no results"):
        results.read_folder(tmp_path)


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("old")
    with pytest.raises(DiskFull, match="cannot be written"):
        results.write_whole(blocked / "run.json", {})
    assert blocked.read_text() == "old"


# Bad input


def test_names_are_chosen_from_what_there_is() -> None:
    assert chosen("all", ("a", "b"), "thing") == ("a", "b")
    assert chosen("b, a,b", ("a", "b"), "thing") == ("b", "a")
    with pytest.raises(UsageError, match="no metric 'bleu'"):
        chosen("bleu", tuple(MEASURES), "metric")
    with pytest.raises(UsageError, match="No metric is named"):
        chosen(" , ", tuple(MEASURES), "metric")
    with pytest.raises(UsageError, match="No method is called"):
        get("magic")
    with pytest.raises(UsageError, match="has no setting"):
        get("rome").settings({"warp": 1.0})


def test_bad_files_are_named_with_the_line(cell: Cell, lab: Lab, tmp_path: Path) -> None:
    def message(**changed: Any) -> str:
        return str(refused(lambda: works(replace(cell, **changed), lab.patient)))

    assert message(retain=None).startswith("A forget set")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "has no records" in message(forget=str(empty))
    half = as_lines(tmp_path / "half.jsonl", [FORGET[0], {"question": "Who?"}])
    assert f'{half}:2: the field "answer" is missing' in message(forget=str(half))
    both = as_lines(tmp_path / "both.jsonl", [*RETAIN, FORGET[1]])
    assert f"{cell.forget}:2 and {both}:9" in message(retain=str(both))
    assert "has 5 facts" in message(size="10")


# Running


def _square(number: int) -> dict[str, Any]:
    if number < 0:
        raise NotFinite(f"{number} has no root.")
    return {"square": number**2}


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_run_here_and_in_processes_and_a_failure_stops_nothing(workers: int) -> None:
    found = dict(run_jobs([1, -1, 3], _square, workers=workers))
    assert found[1] == {"square": 1}
    assert found[3] == {"square": 9}
    assert found[-1] == Failure("-1 has no root.")


def asleep(started: str) -> dict[str, Any]:
    Path(started).touch()
    time.sleep(600)
    return {}


def test_the_processes_of_a_killed_run_end_with_it(tmp_path: Path) -> None:
    code = """
import sys
from repair.bench.grid.runner import run_jobs
from tests.test_bench_grid import asleep
list(run_jobs(sys.argv[1:], asleep, workers=2))
"""
    started = [tmp_path / "a", tmp_path / "b"]
    command = [sys.executable, "-c", code, *map(str, started)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        while not all(path.exists() for path in started) and run.poll() is None:
            time.sleep(0.1)
        run.kill()
        assert run.stdout is not None
        assert run.stdout.read() == b"", "all that could write to it have ended"
    assert run.returncode == -signal.SIGKILL


def test_impossible_runners_are_refused() -> None:
    with pytest.raises(UsageError, match="one worker"):
        list(run_jobs([1], _square, workers=0))
    if find_spec("ray") is None:
        with pytest.raises(EnvironmentProblem, match="scale"):
            list(run_jobs([1], _square, ray="auto"))
