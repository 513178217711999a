"""`repair verify --endpoint` against real servers: the patient's own, and strange ones."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from repair.cli.app import app
from repair.errors import EndpointProblem, UsageError
from repair.export import canaries
from repair.export.endpoint import Endpoint
from repair.export.folder import export
from repair.patient import Patient
from repair.session import Session
from repair.types import Edit, LowRankUpdate
from tests.forgotten import ANSWER, forgotten


@pytest.fixture(scope="module")
def session() -> Session:
    return forgotten()


@pytest.fixture(scope="module")
def folder(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    export(session.patient, out, "peft", ledger=session.ledger)
    return out


@pytest.fixture(scope="module")
def served(session: Session) -> Iterator[str]:
    """The real patient behind FastAPI and uvicorn; gives the address."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(_application(session.patient), port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def _application(patient: Patient) -> Any:
    from fastapi import FastAPI

    application, lock = FastAPI(), threading.Lock()

    @application.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "mended", "object": "model"}]}

    @application.post("/v1/chat/completions")
    def complete(body: dict[str, Any]) -> dict[str, Any]:
        assert body["temperature"] == 0
        assert body["model"] == "mended"
        with lock:
            reply = patient.reply(body["messages"], max_new_tokens=body["max_tokens"])
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": reply}}]}

    return application


@contextlib.contextmanager
def weights(session: Session, *edits: Edit) -> Iterator[None]:
    """The served model with other edits for the length of a block."""
    active = session.patient.active
    session.patient.apply(edits)
    try:
        yield
    finally:
        session.patient.apply(active)


def verify(session: Session, *arguments: str | Path) -> Result:
    given = ["verify", "--home", str(session.home), "--json", *map(str, arguments)]
    return CliRunner().invoke(app, given, catch_exceptions=False)


def test_a_server_with_the_edit_passes(session: Session, served: str, folder: Path) -> None:
    result = verify(session, "--endpoint", served, "--canaries", folder)
    record = json.loads(result.stdout)
    assert (result.exit_code, record["passed"]) == (0, True)
    assert (record["endpoint"], record["model"]) == (f"{served}/v1", "mended")
    (row,) = record["edits"]
    assert (row["edit"], row["recall"], row["n"]) == (1, 0.0, len(session.ledger.probes(1)))
    assert record["kept"]["recall"] == 1.0
    assert record["kept"]["n"] > 20
    assert ANSWER not in result.stdout


def test_a_server_without_the_edit_fails(session: Session, served: str, folder: Path) -> None:
    with weights(session):
        result = verify(session, "--endpoint", f"{served}/v1/", "--canaries", folder)
        own = verify(session, "--endpoint", served, "--model", "mended")
        shown = CliRunner().invoke(
            app, ["verify", "--home", str(session.home), "--endpoint", served]
        )
    for failed in (result, own):
        record = json.loads(failed.stdout)
        assert failed.exit_code == 1
        assert record["edits"][0]["recall"] > 0.9
    assert json.loads(result.stdout)["kept"]["passed"]
    assert json.loads(own.stdout)["kept"] is None, "the ledger keeps no general questions"
    assert shown.exit_code == 1
    assert "fails" in shown.stdout


def test_a_server_that_breaks_what_must_stay_fails(
    session: Session, served: str, folder: Path
) -> None:
    output = session.patient.layers[2]
    random = torch.Generator().manual_seed(0)
    b = torch.randn(output.out_features, 8, generator=random)
    a = torch.randn(8, output.in_features, generator=random)
    with weights(session, *session.patient.active, Edit(99, (LowRankUpdate(2, b, a),))):
        result = verify(session, "--endpoint", served, "--canaries", folder)
    record = json.loads(result.stdout)
    assert result.exit_code == 1
    assert not record["kept"]["passed"]


def test_verifying_here_and_at_a_server_agree(session: Session, served: str) -> None:
    here, there = verify(session), verify(session, "--endpoint", served)
    assert here.exit_code == there.exit_code == 0
    assert json.loads(here.stdout)["edits"] == json.loads(there.stdout)["edits"]


# Strange servers


@contextlib.contextmanager
def strange(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def _said(content: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


STRANGE = {
    "not found": (404, b"Not Found", "refused with 404"),
    "broken": (500, b"<html>\n<h1>oops</h1>", "refused with 500"),
    "a page": (200, b"<html>Welcome</html>", "not answer with JSON"),
    "no bytes": (200, b"", "not answer with JSON"),
    "binary": (200, b"\xff\xfe\x00", "cannot be asked"),
    "a list": (200, b"[1, 2]", "not answer as OpenAI's"),
    "no choices": (200, b'{"choices": []}', "not answer as OpenAI's"),
    "null": (200, _said(None), "not answer as OpenAI's"),
    "parts": (200, _said([{"type": "text", "text": "hi"}]), "not answer as OpenAI's"),
    "nothing": (200, _said(" "), "empty answers only"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_server_is_one_sentence_and_exit_code_3(
    session: Session, folder: Path, name: str
) -> None:
    status, body, sentence = STRANGE[name]
    with strange(status, body) as url:
        arguments = ("--endpoint", url, "--model", "any", "--canaries", folder)
        result = verify(session, *arguments)
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (3, "endpoint_problem")
    assert sentence in error["message"]
    assert "\n" not in error["message"]
    assert error["remedy"]


def test_nobody_there_and_no_model() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(EndpointProblem, match="cannot be asked"):
            Endpoint(f"http://127.0.0.1:{port}")
    with pytest.raises(EndpointProblem, match="cannot be asked"):
        Endpoint("http://127.0.0.1:bad port")
    with strange(200, b'{"data": []}') as url, pytest.raises(EndpointProblem, match="no model"):
        Endpoint(url)
    for address in ("localhost:8000", "ftp://localhost", "file:///etc/passwd", ""):
        with pytest.raises(UsageError, match="no web address"):
            Endpoint(address)


# Canaries that cannot be used


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("missing", "no readable canaries"),
        ("text", "no readable canaries"),
        ("list", "no readable canaries"),
        ("version", "are of version 2, and 1 is read here"),
        ("words", "broken at edits.0.probes.0.words"),
        ("empty", "broken at edits"),
        ("field", "broken at secret"),
    ],
)
def test_broken_canaries_are_wrong_use(
    session: Session, folder: Path, tmp_path: Path, damage: str, sentence: str
) -> None:
    shutil.copy(folder / canaries.FILE, tmp_path)
    file = tmp_path / canaries.FILE
    record = json.loads(file.read_text())
    if damage == "missing":
        file.unlink()
    elif damage == "version":
        record["version"] = 2
    elif damage == "words":
        record["edits"][0]["probes"][0]["words"] = ["plain"]
    elif damage == "empty":
        record["edits"] = []
    elif damage == "field":
        record["secret"] = 1
    if file.exists():
        bad = {"text": "{", "list": "[]"}
        file.write_text(bad.get(damage, json.dumps(record)))
    result = verify(session, "--endpoint", "http://127.0.0.1:1", "--canaries", tmp_path)
    error = json.loads(result.stdout)["error"]
    assert result.exit_code == 2
    assert sentence in error["message"]


def test_canaries_of_another_home(folder: Path, session: Session, tmp_path: Path) -> None:
    from repair.vault import Vault

    Vault(tmp_path / "other")
    arguments = ["--endpoint", "http://127.0.0.1:1", "--canaries", str(folder)]
    result = verify(session, *arguments, "--home", tmp_path / "other")
    assert result.exit_code == 3
    assert "another home's key" in result.stdout
    result = verify(session, *arguments, "--home", tmp_path / "nowhere")
    assert result.exit_code == 3
    assert "key" in result.stdout
    assert not (tmp_path / "nowhere").exists()


def test_there_must_be_something_to_verify(session: Session, tmp_path: Path) -> None:
    result = verify(session, "--endpoint", "http://127.0.0.1:1", "--home", tmp_path / "new")
    assert result.exit_code == 2
    assert "no active edit to verify" in result.stdout
    result = verify(session, "--canaries", tmp_path)
    assert result.exit_code == 2
    assert "--endpoint" in result.stdout
