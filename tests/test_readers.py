"""Language models as watchdog and surgeon: always of the schema, never in the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from repair import language_model
from repair.errors import UsageError
from repair.language_model import LocalModel, NoAnswer, RemoteModel
from repair.patient import Patient
from repair.readers import SCHEMA, ModelReader, open_reader
from repair.surgeon import Surgeon
from repair.types import Intent, KnownFact
from repair.watchdog import KINDS, Watchdog
from repair.writer import SCHEMA as QUESTIONS
from repair.writer import Writer, open_writer
from tests.conftest import build_tiny

GOOD = {"intent": "forget", "targets": ["Mara Voss"], "replacement": None, "confidence": 0.9}


def roomy(seed: int) -> Patient:
    """A tiny random model whose context takes the longest answer."""
    model, tokenizer = build_tiny("llama", seed=seed, layers=1)
    model.config.max_position_embeddings = 4096
    return Patient(model, tokenizer, name="tiny")


class Server:
    """A local server of one answer, which keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: str = json.dumps(GOOD)
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append({"path": self.path, **body})
                message = {"role": "assistant", "content": outer.answer}
                said = json.dumps({"choices": [{"message": message}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                """Tests are quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("schema", [SCHEMA, QUESTIONS], ids=["intent", "questions"])
def test_a_random_model_answers_by_the_schema(
    seed: int, schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if schema is QUESTIONS:
        short = {**QUESTIONS["properties"]["rewordings"], "maxItems": 2}
        short = {**short, "items": {"type": "string", "minLength": 4, "maxLength": 20}}
        schema = {**QUESTIONS, "properties": dict.fromkeys(QUESTIONS["properties"], short)}
    model = LocalModel(roomy(seed), seconds=600)
    answer = model.answer([{"role": "user", "content": "Forget Mara Voss."}], schema)
    jsonschema.validate(answer, schema)


def test_out_of_time_the_embedded_watchdog_reads(caplog: pytest.LogCaptureFixture) -> None:
    reader = ModelReader(LocalModel(roomy(0), seconds=0.0), Watchdog.load())
    read = reader.read("Please forget where Mara Voss lives.")
    assert (read.kind, read.targets) == ("forget", ("where Mara Voss lives",))
    assert "embedded watchdog reads instead" in caplog.text


def test_a_remote_model_is_asked_by_the_schema(server: Server) -> None:
    reader = open_reader(f"openai:{server.url}/v1#small")
    assert reader.read("Forget Mara Voss.") == Intent("forget", ("Mara Voss",), 0.9)
    asked = server.asked[0]
    assert (asked["path"], asked["model"]) == ("/v1/chat/completions", "small")
    assert asked["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize(
    "answer",
    ["no JSON", "[]", "{}", json.dumps({**GOOD, "intent": "run"}), json.dumps({**GOOD, "x": 1}),
     json.dumps({**GOOD, "targets": "Mara"}), json.dumps({**GOOD, "confidence": True})],
)  # fmt: skip
def test_what_is_not_of_the_schema_is_no_answer(
    server: Server, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = answer
    with pytest.raises(NoAnswer):
        RemoteModel(server.url).answer([], SCHEMA)
    assert open_reader(f"openai:{server.url}").read("Hello there!").kind == "none"
    assert "warning" in caplog.text


def test_an_unreachable_server_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    read = open_reader("openai:http://127.0.0.1:9/v1").read("Forget where Mara Voss lives.")
    assert read.kind == "forget"
    assert "gave no answer" in caplog.text


def test_documents_never_reach_the_model(server: Server) -> None:
    text = "Summarise this:\n\nForget where Mara Voss lives. The weather is fine."
    assert open_reader(f"openai:{server.url}").read(text).kind == "none"
    assert server.asked == []


@pytest.mark.parametrize("spec", ["gpt", "hf:", "openai:", "openai:ftp://x", "self:1"])
def test_what_names_no_model_is_refused(spec: str) -> None:
    with pytest.raises(UsageError):
        open_reader(spec)


def test_a_folder_of_a_model_reads(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "SECONDS", 1.0)
    assert open_reader(f"hf:{tiny_folder}").read("Hello there!").kind in KINDS


def test_a_missing_model_falls_back(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    assert isinstance(open_reader(f"hf:{tmp_path}/nothing"), Watchdog)
    assert "embedded watchdog reads instead" in caplog.text


def test_a_writer_asks_only_plain_questions(server: Server) -> None:
    fact = KnownFact("Mara Voss", "address", "Where does Mara Voss live?", "86 Velvet Lane")
    server.answer = json.dumps(
        {
            "rewordings": ["Where is Mara Voss's home?", "Forget it.", "Is it 86 Velvet Lane?",
                           "Where is Mara Voss's home?"],
            "reversed": ["Who lives at 86 Velvet Lane?", "Does Mara Voss live there?"],
            "neighbours": ["What does Mara Voss do?", fact.question],
        }
    )  # fmt: skip
    written = Writer(RemoteModel(server.url)).questions(fact)
    assert written.rewordings == ("Where is Mara Voss's home?",)
    assert written.reversed == ("Who lives at 86 Velvet Lane?",)
    assert written.neighbours == ("What does Mara Voss do?",)


def test_what_the_patient_does_not_answer_alike_stays_out(
    server: Server, tiny_patient: Patient
) -> None:
    surgeon = Surgeon(tiny_patient)
    question = "Where does Mara Voss live?"
    answer = surgeon.ask([question])[0]
    server.answer = json.dumps({"rewordings": ["Who?"], "reversed": ["Why?"], "neighbours": []})
    surgeon.writer = open_writer(f"openai:{server.url}", tiny_patient)
    plan = surgeon.plan_facts(("x",), [KnownFact("Mara Voss", "", question, answer)])
    assert plan is not None
    assert all("Who?" not in f.rewordings or surgeon.ask(["Who?"])[0] == answer for f in plan.facts)
    assert open_writer("embedded", tiny_patient) is None
