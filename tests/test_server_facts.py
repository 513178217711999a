"""A server that holds the embedded patient's answers to trusted facts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from repair.factcheck import TrustedFact
from repair.patient import Patient
from repair.server.service import open_service
from repair.world import facts
from tests.serving import asked, client, tiny_service

CLAIM = facts("misinformation", "dev")[0]
FACT = TrustedFact(1, CLAIM.question, CLAIM.truth or "")


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("held")
    with client(open_service(Patient.load(), home, facts=[FACT])) as opened:
        yield opened


def test_a_contradiction_is_marked_when_switched_on_and_corrected_at_a_click(
    http: TestClient,
) -> None:
    plain = http.post("/v1/chat/completions", json=asked(FACT.question)).json()
    assert "repair" not in plain["choices"][0]["message"]
    assert http.put("/v1/facts", json={"on": True}).json() == {"on": True}
    marked = http.post("/v1/chat/completions", json=asked(FACT.question)).json()
    assert FACT.verdict(marked["choices"][0]["message"]["content"]) == "wrong"
    contradicts = marked["choices"][0]["message"]["repair"]["contradicts"]
    assert contradicts == {"line": 1, "answer": FACT.answer}

    streamed = http.post("/v1/chat/completions", json=asked(FACT.question, stream=True)).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    last = [e["choices"][0]["delta"].get("repair") for e in events if e["choices"]][-1]
    assert last == {"contradicts": contradicts}

    outcome = http.post("/v1/facts/1/correct", json={"yes": True}).json()
    assert outcome["status"] == "healed"
    after = http.post("/v1/chat/completions", json=asked(FACT.question)).json()
    message = after["choices"][0]["message"]
    assert FACT.verdict(message["content"]) == "right"
    assert "repair" not in message


def test_a_fact_that_is_not_there_and_a_server_without_any(
    http: TestClient, tmp_path: Path
) -> None:
    assert http.post("/v1/facts/7/correct", json={}).status_code == 404
    with client(tiny_service(tmp_path)) as bare:
        refused = bare.put("/v1/facts", json={"on": True})
    assert refused.status_code == 400
    assert "no trusted facts" in refused.json()["error"]["message"]
