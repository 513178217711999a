"""Orders from the command line to files: resumed, killed, searched, and refused by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repair.bench.grid.order import Order, cells, run_order, search_order
from repair.bench.grid.search import best_settings, read_tuning
from repair.errors import OperationRefused, UsageError
from tests.bench_grid import grid_cell, story_model
from tests.commands import repair


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return story_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def order(model: Path, tmp_path: Path) -> Order:
    base = replace(grid_cell(tmp_path), model=str(model))
    methods = ("untouched", "ga")
    return Order("run", ("own",), ("1",), methods, base, repeats=1, out=tmp_path / "grid")


def told(_: str) -> None:
    """Nobody listens."""


def test_finished_cells_are_read_and_others_measured(order: Order) -> None:
    first = list(run_order(replace(order, methods=("untouched",)), told))
    path = order.out / "run-own-1-untouched-dev.json"
    stamp = path.stat().st_mtime_ns
    both = list(run_order(order, told))
    assert path.stat().st_mtime_ns == stamp
    assert [r["cell"]["method"] for r in both] == ["untouched", "ga"]
    assert both[0] == first[0]
    # Other settings make another cell, whose file is written anew.
    list(run_order(replace(order, repeats=2), told))
    assert path.stat().st_mtime_ns != stamp


def test_a_cell_that_fails_keeps_the_others_and_is_named(order: Order) -> None:
    heard: list[str] = []
    with pytest.raises(OperationRefused, match="1 cells failed, the first: run-own-1-oracle"):
        list(run_order(replace(order, methods=("oracle", "untouched")), heard.append))
    assert "--oracle" in heard[0]
    assert [p.name for p in order.out.iterdir()] == ["run-own-1-untouched-dev.json"]


def test_a_killed_run_goes_on_where_it_stood(model: Path, order: Order) -> None:
    given = ["bench", "run", "--method", "untouched,ga,npo,rmu", "--repeats", "1", "--size", "1"]
    given += ["--model", str(model), "--out", str(order.out)]
    given += ["--forget", str(order.base.forget), "--retain", str(order.base.retain)]
    command = [sys.executable, "-m", "repair", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    first = order.out / "run-own-1-untouched-dev.json"
    while not first.exists() and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for path in order.out.glob("run-*.json"):
        assert json.loads(path.read_text())["schema"] == 2
    stamp = first.stat().st_mtime_ns
    done = repair(order.out.parent, *given, "--json")
    assert done.returncode == 0, done.stderr
    methods = [r["cell"]["method"] for r in json.loads(done.stdout)["results"]]
    assert sorted(methods) == ["ga", "npo", "rmu", "untouched"]
    assert first.stat().st_mtime_ns == stamp


def test_a_search_is_recorded_and_read_by_the_cells(order: Order, tmp_path: Path) -> None:
    out = tmp_path / "tuning.json"
    searching = replace(order, tasks=("own",), methods=("stamp",), out=out)
    record = search_order(searching, 2, told)
    assert record == read_tuning(out)
    entry = record["searches"]["1"]["stamp"]
    assert len(entry["trials"]) == record["budget"] == 2
    assert entry["settings"] in [trial["settings"] for trial in entry["trials"]]
    # Those of other methods stay when one is searched again.
    again = search_order(replace(searching, methods=("paper",)), 1, told)
    assert set(again["searches"]["1"]) == {"stamp", "paper"}
    found = cells(replace(order, methods=("stamp", "ga", "untouched"), tuning=out))
    assert [cell.searched for cell in found] == [
        "best of 2 trials on tune at size 1",
        "published defaults",
        "nothing to search",
    ]
    assert dict(found[0].settings) == entry["settings"]
    assert best_settings(record, "stamp", "full")[1] == "best of 2 trials on tune at size 1"


def test_a_broken_file_of_searches_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tuning.json"
    with pytest.raises(UsageError, match="bench tune"):
        read_tuning(path)
    path.write_text('{\n"schema"')
    with pytest.raises(UsageError, match=r"tuning\.json:2"):
        read_tuning(path)
    path.write_text('{"schema": 1}')
    with pytest.raises(UsageError, match="not a file of searches of this version"):
        read_tuning(path)
    record: dict[str, Any] = {"searches": {"1": {"ga": {"settings": {"x": 1}, "trials": []}}}}
    with pytest.raises(UsageError, match="another version"):
        best_settings(record, "ga", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--task", "cooking"), "no task 'cooking'"),
        (("run", "--method", "magic"), "no method 'magic'"),
        (("run", "--size", "7"), "no size '7'"),
        (("run", "--split", "all of it"), "no split"),
        (("attack", "--attack", "bribe"), "no attack 'bribe'"),
        (("tune", "--method", "untouched"), "nothing to search"),
        (("table", "nowhere"), "no folder nowhere"),
        (("table", "nowhere", "--metric", "bleu"), "no metric 'bleu'"),
        (("report", "nowhere"), "no folder nowhere"),
        (("rerun", "none.json"), "no result none.json"),
        (("run", "--forget", "none.jsonl"), "needs a retain set"),
    ],
)
def test_wrong_use_is_one_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = repair(tmp_path, "bench", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
