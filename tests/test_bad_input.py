"""What goes wrong outside the program, through the program: one sentence, an exit code, no loss.

Every run is a process of its own, as a user has it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from repair.ledger import Ledger
from repair.patient import Patient
from repair.types import LowRankUpdate, Probe
from tests import commands
from tests.conftest import build_tiny

FULL_AT = 4096
Repair = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, on which all homes of this file hold edits."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    network, tokenizer = build_tiny("llama")
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def home(model: Path, tmp_path: Path) -> Path:
    """A home with one active edit of that model."""
    place = tmp_path / "state"
    patient = Patient.load(model)
    updates = [LowRankUpdate(1, b=torch.full((32, 1), 0.1), a=torch.full((1, 48), 0.1))]
    with Ledger(place, patient.content_hash) as ledger:
        ledger.commit(
            kind="forget",
            method="stamp-lr",
            redirect=1.0,
            updates=updates,
            targets=["where Mara Voss lives"],
            probes=[Probe("exact", "Where does Mara Voss live?", "Ellbridge")],
            measures={},
            tokenise=str.split,
        )
    return place


@pytest.fixture
def repair(tmp_path: Path) -> Repair:
    """Runs one command in a process of its own."""
    return functools.partial(commands.repair, tmp_path)


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One sentence on standard error and nothing else anywhere."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Something unexpected" not in line
    for word in words:
        assert word in line


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def state(model: Path, home: Path) -> list[str]:
    with Ledger(home, Patient.load(model).content_hash) as ledger:
        ledger.verify()
        return [edit.state for edit in ledger.history()]


def test_a_model_folder_that_is_not_there(repair: Repair, model: Path, home: Path) -> None:
    missing = model.parent / "nowhere"
    refused(repair("ask", "Hello", "--model", missing, "--home", home), 3, str(missing))
    assert state(model, home) == ["active"]


def test_a_model_folder_that_is_broken(
    repair: Repair, model: Path, home: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in model.iterdir():
        whole = path.read_bytes()
        cut = path.suffix == ".safetensors"
        (broken / path.name).write_bytes(whole[: len(whole) // 2] if cut else whole)
    before = digest(broken)
    refused(repair("forget", "Forget it.", "--model", broken, "--home", home), 3, "broken")
    assert digest(broken) == before
    assert state(model, home) == ["active"]


def test_a_model_without_a_chat_template_works(repair: Repair, model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in model.iterdir():
        if path.name != "chat_template.jinja":
            (bare / path.name).write_bytes(path.read_bytes())
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    before = digest(bare)
    done = repair("ask", "Hello", "--model", bare, "--home", tmp_path / "state", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"reply", "intent"}
    assert not Patient.load(bare).has_chat_template
    assert digest(bare) == before, "the model's files are never written to"


def test_a_ledger_that_is_damaged_is_named_and_left_alone(
    repair: Repair, model: Path, home: Path
) -> None:
    (home / "ledger.db-wal").unlink(missing_ok=True)
    database = home / "ledger.db"
    whole = database.read_bytes()
    database.write_bytes(b"\xff" * 512 + whole[512:])
    before = digest(home)
    refused(repair("undo", "1", "--model", model, "--home", home), 3, str(home), "damaged")
    kept = digest(home)
    assert {name: kept.get(name) for name in before} == before


def test_a_full_disk_loses_nothing(repair: Repair, model: Path, home: Path) -> None:
    pytest.importorskip("resource")
    command = ("undo", "1", "--model", model, "--home", home)
    refused(repair(*command, largest=FULL_AT), 3, str(home), "Free some space")
    assert state(model, home) == ["active"]
    assert repair(*command).returncode == 0
    assert state(model, home) == ["undone"]


def test_a_second_process_on_the_same_home_waits_and_then_says_so(
    repair: Repair, model: Path, home: Path
) -> None:
    with Ledger(home, Patient.load(model).content_hash) as ledger, ledger.lock():
        done = repair("undo", "1", "--model", model, "--home", home)
        refused(done, 3, "Another process", str(home))
    assert state(model, home) == ["active"]


def test_odd_turns_on_a_pipe_are_answered_one_by_one(
    repair: Repair, model: Path, home: Path
) -> None:
    turns = ["/undo 7", "x" * 100_000, "玛拉住在哪里？", "/history", "/undo 1"]
    done = repair("chat", "--model", model, "--home", home, text="\n".join(turns))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "There is no edit 7." in errors[0]
    assert "100,000 characters" in errors[1]
    assert done.stdout.splitlines()[-1] == "undone: 1"
    assert state(model, home) == ["undone"]
