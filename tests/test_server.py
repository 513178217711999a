"""The HTTP front door on a tiny model: shapes, sampling, access, edits, malformed input."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from repair.server.rows import Choice
from repair.server.service import Service
from tests.serving import CHAT, asked, chat, client, commit, tiny_service

QUESTION = "What is the phone number of Tom Hale?"
TITLE = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n"
    "### Chat History:\n<chat_history>\nUSER: Please forget where Mara Voss lives.\n"
    "ASSISTANT: I no longer know that.\n</chat_history>"
)
TAGS = (
    "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history.\n"
    "<chat_history>\nUSER: Forget everything about Tom Hale.\n</chat_history>"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return tiny_service(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def web(service: Service) -> Iterator[TestClient]:
    with client(service) as opened:
        yield opened


def said(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


# Answers


def test_an_answer_is_that_of_the_patient_itself(web: TestClient, service: Service) -> None:
    reply = chat(web, QUESTION, max_tokens=12, model="tiny")
    patient: Any = service.theatre.session.patient
    wanted = patient.reply([{"role": "user", "content": QUESTION}], max_new_tokens=12)
    assert said(reply) == wanted
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert reply["choices"][0]["finish_reason"] in ("stop", "length")
    assert reply["system_fingerprint"] == "tiny@0"


def test_a_stream_gives_the_same_text_and_ends_with_done(web: TestClient) -> None:
    whole = said(chat(web, QUESTION, max_tokens=12))
    body = asked(QUESTION, max_tokens=12, stream=True, stream_options={"include_usage": True})
    reply = web.post(CHAT, json=body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert text.strip() == whole
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_seed_fixes_what_is_drawn_and_n_answers_differ(web: TestClient) -> None:
    how = {"temperature": 1.5, "max_tokens": 16, "seed": 7}
    first, again = (chat(web, QUESTION, n=3, **how) for _ in range(2))
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert len(set(texts)) > 1
    assert chat(web, QUESTION, n=1, **how)["choices"][0]["message"]["content"] == texts[0]


def test_a_stop_word_ends_the_answer_and_is_not_shown(web: TestClient) -> None:
    whole = said(chat(web, QUESTION, max_tokens=24))
    word = whole[len(whole) // 2 : len(whole) // 2 + 2]
    reply = chat(web, QUESTION, max_tokens=24, stop=[word])
    assert said(reply) == whole.split(word)[0].strip()
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_the_nucleus_never_draws_what_is_unlikely() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    drawn = {Choice(1.0, 0.75, seed).choose(logits) for seed in range(200)}
    assert drawn == {0, 1}
    assert {Choice(1.0, 1.0, seed).choose(logits) for seed in range(400)} == {0, 1, 2, 3}
    assert {Choice(0.01, 1.0, seed).choose(logits) for seed in range(50)} == {0}


@pytest.mark.parametrize("text", [TITLE, TAGS], ids=["title", "tags"])
def test_prompts_of_front_ends_are_never_requests(web: TestClient, text: str) -> None:
    message = chat(web, text, max_tokens=4)["choices"][0]["message"]
    assert "repair" not in message


def test_a_wish_about_what_is_unknown_is_answered_with_its_outcome(web: TestClient) -> None:
    message = chat(web, "Please forget where Mara Voss lives.")["choices"][0]["message"]
    assert message["repair"]["intent"] == "forget"
    assert message["repair"]["outcome"]["status"] == "unknown_fact"
    assert "know" in message["content"]


# Edits


def test_edits_are_listed_undone_redone_and_weakened(web: TestClient, service: Service) -> None:
    before = said(chat(web, QUESTION, max_tokens=12))
    identity = commit(service)
    edited = said(chat(web, QUESTION, max_tokens=12))
    assert edited != before
    assert web.get("/v1/edits").json()["data"][-1]["id"] == identity
    assert web.post(f"/v1/edits/{identity}/undo").json() == {"undone": [identity]}
    assert said(chat(web, QUESTION, max_tokens=12)) == before
    assert web.post(f"/v1/edits/{identity}/undo").status_code == 400
    assert web.post(f"/v1/edits/{identity}/redo").status_code == 200
    assert said(chat(web, QUESTION, max_tokens=12)) == edited
    half = web.post(f"/v1/edits/{identity}/strength", json={"strength": 0.0})
    assert half.json() == {"edit": identity, "strength": 0.0}
    assert said(chat(web, QUESTION, max_tokens=12)) == before
    shown = web.get(f"/v1/edits/{identity}").json()
    assert shown["strength"] == 0.0
    assert any("undoing" in line for line in shown["explanation"])
    receipt = web.get(f"/v1/edits/{identity}/receipt")
    assert "attachment" in receipt.headers["content-disposition"]
    assert [event["event"] for event in receipt.json()["journal"]][:2] == ["commit", "undo"]
    assert web.get("/v1/audit").json()["chain"] == "intact"
    web.post(f"/v1/edits/{identity}/undo")


def test_an_own_edit_acts_in_its_owners_conversations_alone(
    web: TestClient, service: Service
) -> None:
    key = service.access.people.add("ana", "member")
    other = service.access.people.add("ben", "member")
    before = said(chat(web, QUESTION, max_tokens=12))
    identity = commit(service, "ana")
    everyone: dict[str, str] = {}
    hers, his = ({"Authorization": f"Bearer {value}"} for value in (key, other))
    answers: dict[str, str] = {}

    def ask(who: str, headers: dict[str, str]) -> None:
        reply = web.post(CHAT, json=asked(QUESTION, max_tokens=12), headers=headers)
        answers[who] = said(reply.json())

    threads = [
        threading.Thread(target=ask, args=pair)
        for pair in (("all", everyone), ("ana", hers), ("ben", his))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers["all"] == answers["ben"] == before
    assert answers["ana"] != before
    assert web.get(f"/v1/edits/{identity}", headers=hers).json()["owner"] == "ana"
    assert web.get(f"/v1/edits/{identity}", headers=his).status_code == 404
    assert web.post(f"/v1/edits/{identity}/undo", headers=his).status_code == 404
    assert web.post(f"/v1/edits/{identity}/publish", headers=his).status_code == 403
    assert web.post(f"/v1/edits/{identity}/publish").json() == {"published": [identity]}
    assert said(chat(web, QUESTION, max_tokens=12)) == answers["ana"]
    assert web.post(f"/v1/edits/{identity}/undo", headers=hers).status_code == 403
    assert web.post(f"/v1/edits/{identity}/undo").status_code == 200
    assert service.ledger.verify() > 0


# The service


def test_the_page_may_load_nothing_from_elsewhere(web: TestClient) -> None:
    page = web.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    folder = Path(__file__).parent.parent / "src" / "repair" / "server" / "page"
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert "http://" not in text
        assert "https://" not in text
        assert web.get(f"/page/{path.name}").status_code == 200


def test_health_metrics_and_the_api_page(web: TestClient) -> None:
    assert web.get("/healthz").json()["status"] == "ok"
    assert "repair_requests_total" in web.get("/metrics").text
    assert CHAT in web.get("/openapi.json").json()["paths"]
    assert web.get("/docs").status_code == 200


# Malformed input

ODD: list[Any] = [
    None, True, -1, 0, 2**70, 1.5, float("inf"), "", "x", "\x00", "\ud800", "忘" * 50, [], [[]],
    {}, {"a": 1}, [None], "assistant", {"role": "user"}, [{"role": "user", "content": "hi"}],
    [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], [{"role": "x"}],
]  # fmt: skip
FIELDS = (
    "messages", "model", "stream", "temperature", "top_p", "max_tokens", "n", "seed", "stop",
    "repair", "stream_options", "text", "strength", "subject", "kind", "scope", "yes",
)  # fmt: skip
PATHS = (CHAT, "/v1/edits", "/v1/edits/1/strength", "/v1/edits/x/undo", "/v1/knowledge", "/v1/plan")


def malformed(dice: random.Random) -> tuple[str, bytes]:
    """A path and a body that no client should send."""
    body: Any = {name: dice.choice(ODD) for name in dice.sample(FIELDS, dice.randint(0, 6))}
    if dice.random() < 0.2:
        body = dice.choice(ODD)
    text = json.dumps(body).encode()
    if dice.random() < 0.3:
        bent = bytearray(text)
        for _ in range(dice.randint(1, 4)):
            bent.insert(dice.randrange(len(bent) + 1), dice.randrange(256))
        text = bytes(bent[: dice.randrange(len(bent) + 1)])
    return dice.choice(PATHS), text


def test_malformed_requests_are_refused_and_never_a_fault(web: TestClient) -> None:
    dice = random.Random(3)
    seen = set()
    for _ in range(300):
        path, body = malformed(dice)
        reply = web.post(path, content=body, headers={"Content-Type": "application/json"})
        seen.add(reply.status_code)
        assert reply.status_code < 500, (path, body, reply.text)
        if reply.status_code >= 400:
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert 400 in seen
    too_much = web.post(
        CHAT, content=b"x" * (5 << 20), headers={"Content-Type": "application/json"}
    )
    assert too_much.status_code == 413


def test_a_conversation_that_is_too_long_is_refused_also_as_a_stream(web: TestClient) -> None:
    for stream in (False, True):
        reply = web.post(CHAT, json=asked("and so on " * 400, stream=stream))
        assert reply.status_code == 400
        assert "at most 256" in reply.json()["error"]["message"]
