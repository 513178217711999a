"""``repair serve --engine llamacpp`` with llama.cpp's own server; run by ``make test-engines``.

``LLAMA_SERVER`` says how it is started.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from openai import APIStatusError, OpenAI

from repair.export.folder import export
from repair.export.gguf_files import ADAPTER, BASE
from repair.patient import Patient
from repair.refusals import is_refusal
from repair.retain import RETAIN_QUESTIONS
from repair.server.llamacpp import LlamaAt, LlamaServers, found
from repair.server.remote import Remote
from repair.server.service import Service, open_service
from repair.world import facts
from tests.forgotten import ANSWER, NEIGHBOUR, QUESTION
from tests.serving import listening

COMMAND = found(os.environ.get("LLAMA_SERVER", ""))
FORGET = "Please forget where Mara Voss lives."
QUESTIONS = (
    QUESTION,
    NEIGHBOUR.question,
    *(f.question for f in facts("personal", "dev")[:20]),
    *(f.question for f in facts("harmful", "dev")[:10]),
    *RETAIN_QUESTIONS,
)


@contextmanager
def served(home: Path, remote: Remote | None = None) -> Iterator[tuple[Service, OpenAI]]:
    patient = Patient.load(device="cpu")
    remote = remote or LlamaServers(patient, home / "adapters", COMMAND)
    service = open_service(patient, home, replicas=[remote])
    with listening(service) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        yield service, sdk


def said(sdk: OpenAI, text: str) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    reply = sdk.chat.completions.create(model="embedded", messages=messages, max_tokens=64)
    return reply.choices[0].message


def ask(sdk: OpenAI, text: str) -> str:
    return str(said(sdk, text).content)


def processes() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if child.cmdline()[:1] == COMMAND[:1]]


def test_what_is_forgotten_here_is_forgotten_there(tmp_path: Path) -> None:
    """The whole way over the API, and undone; one process a state, and none at the end."""
    with served(tmp_path) as (service, sdk):
        assert ANSWER in ask(sdk, QUESTION)
        assert len(processes()) == 1
        outcome = said(sdk, FORGET).repair["outcome"]
        assert outcome["status"] == "healed"
        (version,) = service.engine.versions()
        assert len(processes()) == 2
        gone = ask(sdk, QUESTION)
        assert ANSWER not in gone
        assert is_refusal(gone)
        assert NEIGHBOUR.answer in ask(sdk, NEIGHBOUR.question)
        there = [ask(sdk, question) for question in QUESTIONS]
        here = service.theatre.answers(service.ledger, QUESTIONS)
        assert [a.strip() for a in there] == [a.strip() for a in here]
        # A server that died is started again with the same state.
        for process in processes():
            process.kill()
            process.wait()
        assert ask(sdk, QUESTION) == gone
        assert version in [model.id for model in sdk.models.list()]
        assert ask(sdk, f"Undo edit {outcome['edit']}.")
        assert ANSWER in ask(sdk, QUESTION)
        service.ledger.redo([outcome["edit"]])
        assert ask(sdk, QUESTION) == gone
        assert len(processes()) == 2
    assert processes() == []
    logs = [path.read_text() for path in (tmp_path / "adapters").glob("*.log")]
    assert len(logs) >= 2
    assert not any(ANSWER in log or "Mara" in log for log in logs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_server_outlives_the_command(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "repair", "serve", "--port", "0", "--home", str(tmp_path)]
    command += [
        "--engine",
        "llamacpp",
        "--engine-command",
        shlex.join([*COMMAND, "--threads", "1"]),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "Serving embedded" in process.stderr.readline()
        (child,) = psutil.Process(process.pid).children()
        assert child.cmdline()[0] == COMMAND[0]
        process.send_signal(number)
        process.communicate(timeout=60)
    assert not child.is_running()


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """A llama-server that somebody started with an exported adapter."""
    files = ("--model", folder / BASE, "--lora", folder / ADAPTER)
    command = [*COMMAND, *map(str, files), "--host", "127.0.0.1", "--port", "18099"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = "http://127.0.0.1:18099"
        end = time.monotonic() + 120
        while not LlamaAt(url).ready() and time.monotonic() < end:
            time.sleep(0.05)
        yield url
        process.terminate()


def test_a_running_server_is_used_for_the_edits_that_it_was_started_with(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "out"
    patient = Patient.load(device="cpu")
    with open_service(patient, home).theatre.session as session:
        assert session.forget(QUESTION, ANSWER).status == "healed"
        export(session.patient, folder, "gguf", ledger=session.ledger)
    with running(folder) as url, served(home, LlamaAt(f"{url}/v1")) as (service, sdk):
        assert is_refusal(ask(sdk, QUESTION))
        assert NEIGHBOUR.answer in ask(sdk, NEIGHBOUR.question)
        service.ledger.undo([1])
        assert ANSWER in ask(sdk, QUESTION)
        service.ledger.redo([1])
        assert is_refusal(ask(sdk, QUESTION))
        service.ledger.adjust(1, 0.5)
        with pytest.raises(APIStatusError, match="it loads none later"):
            ask(sdk, QUESTION)
