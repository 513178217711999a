"""The grid's cells over a local Ray cluster; run by ``make test-ray``, which installs Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repair.bench.grid.results import read_folder
from tests.bench_grid import grid_cell, story_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not here; make test-engines"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return story_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def address() -> Any:
    import ray

    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


def measured(model: Path, folder: Path, *how: str) -> dict[str, Any]:
    cell = grid_cell(folder)
    command = [sys.executable, "-m", "repair", "bench", "run", "--method", "untouched,ga"]
    command += ["--forget", str(cell.forget), "--retain", str(cell.retain), "--repeats", "1"]
    out = folder / "grid"
    command += ["--model", str(model), "--out", str(out), *how]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONWARNINGS": "default"})
    return {str(record["cell"]["method"]): record["measures"] for record in read_folder(out)}


def test_a_cluster_measures_what_one_process_does(
    model: Path, address: str, tmp_path: Path
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here = measured(model, tmp_path / "here")
    there = measured(model, tmp_path / "there", "--ray", address)
    assert sorted(there) == ["ga", "untouched"]
    for method, measures in here.items():
        measures.pop("seconds"), there[method].pop("seconds")
        assert json.dumps(there[method]) == json.dumps(measures)
