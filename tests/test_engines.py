"""Which engine answers: flags, what is refused, and GGUF adapters that can be told apart."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from gguf import GGUFReader
from typer.testing import CliRunner

from repair.adapter import composed
from repair.cli.app import app
from repair.errors import EnvironmentProblem
from repair.export.gguf_files import ADAPTER, digest
from repair.server.llamacpp import LlamaServers, found
from repair.server.replica import Replica
from repair.types import Edit
from tests.prepared import tiny
from tests.test_adapter import update

URL = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        (["--engine", "vllm"], 2, "--engine vllm needs --engine-url"),
        (["--engine-url", URL], 2, "--engine-url needs --engine"),
        (["--engine", "llamacpp", "--engine-url", "nowhere"], 2, "nowhere is no web address"),
        (["--engine-command", "llama-server"], 2, "--engine-command starts a llama-server"),
        (
            ["--engine", "llamacpp", "--engine-url", URL, "--engine-command", "x"],
            2,
            "--engine-command starts a llama-server",
        ),
        (
            ["--engine", "llamacpp", "--engine-command", "no-such-program -ngl 99"],
            3,
            "There is no program no-such-program",
        ),
    ],
)
def test_flags_that_do_not_fit_are_one_sentence(
    tmp_path: Path, given: list[str], code: int, text: str
) -> None:
    result = CliRunner().invoke(app, ["serve", "--home", str(tmp_path), *given])
    assert result.exit_code == code
    assert text in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_a_command_has_its_program_and_its_arguments() -> None:
    assert found(f"{sys.executable} -ngl 99") == [sys.executable, "-ngl", "99"]


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('this build has no such flag')"]
    with pytest.raises(EnvironmentProblem, match=r"ended as it started \(this build has no such"):
        LlamaServers(tiny(), tmp_path, command)
    with pytest.raises(EnvironmentProblem, match="cannot be started"):
        LlamaServers(tiny(), tmp_path, [str(tmp_path)])


def test_a_server_that_is_not_there_is_not_ready() -> None:
    assert Replica(URL).ready() is False


def test_an_adapter_is_called_after_its_edits_alone(tmp_path: Path) -> None:
    patient = tiny()
    first, second = Edit(1, (update(patient, 0, 3),)), Edit(2, (update(patient, 1, 2, seed=1),))
    names = [digest(composed(edits).factors) for edits in ([first], [first, second], [first])]
    assert names[0] == names[2] != names[1]
    LlamaServers.save(LlamaServers.__new__(LlamaServers), patient, [first], tmp_path)
    fields = GGUFReader(tmp_path / ADAPTER).fields
    assert fields["adapter.lora.task_name"].contents() == names[0]
