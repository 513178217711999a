"""What the server promises under load, in small: scripts/measure_server.py has the full numbers."""

from __future__ import annotations

import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from starlette.testclient import TestClient

from repair.people import Policy
from repair.server.batch import LocalEngine
from repair.types import Edit
from tests.serving import chat, client, commit, tiny_service

SCRIPT = Path(__file__).parent.parent / "scripts" / "measure_server.py"
SENT = ("method", "url", "params", "headers", "json", "data", "content")
OPEN = Policy(requests_per_minute=10**9, edits_per_minute=10**9)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_no_answer_is_computed_with_half_changed_weights(script: dict[str, Any]) -> None:
    result = script["chat"](clients=8, edits=4)
    assert (result["errors"], result["answers_of_no_version"]) == (0, 0)
    assert result["versions"] >= 4
    assert result["answers"] >= 8


def test_an_edit_made_while_the_ledger_is_read_has_its_own_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = tiny_service(tmp_path, OPEN)
    assert isinstance(service.engine, LocalEngine)
    followed = service.engine.ledger
    edits: list[int] = []
    read = followed.active

    def interrupted() -> tuple[Edit, ...]:
        if not edits:
            edits.append(commit(service))
        return read()

    with client(service) as web:
        before = chat(web, "What is it?", max_tokens=12)
        commit(service, scale=0.5)
        monkeypatch.setattr(followed, "active", interrupted)
        during = chat(web, "What is it?", max_tokens=12)
        after = chat(web, "What is it?", max_tokens=12)
        versions = [reply["system_fingerprint"] for reply in (before, during, after)]
        assert versions == ["tiny@0", "tiny@2", "tiny@2"]
        assert [e.id for e in service.engine.patient.active] == [1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_during_edits_the_state_is_before_or_after(script: dict[str, Any]) -> None:
    result = script["kills"](6)
    assert result["states_between"] == 0
    assert result["events"] > 0


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client(tiny_service(tmp_path_factory.mktemp("fuzzed"), OPEN)) as opened:
        yield opened


def test_schemathesis_finds_no_fault(web: TestClient) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_dict(web.get("/openapi.json").json())
    quick = settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    for operation in schema.get_all_operations():
        found: Any = operation

        @quick
        @given(case=found.ok().as_strategy())
        def one(case: Any) -> None:
            sent = case.as_transport_kwargs(base_url="http://127.0.0.1")
            reply = web.request(**{name: sent[name] for name in SENT if sent.get(name) is not None})
            assert reply.status_code < 500, (case, reply.text)

        one()
