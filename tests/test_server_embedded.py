"""The server with the embedded patient, used as people do: SDKs, a browser, other engines."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from repair.errors import EnvironmentProblem
from repair.ledger import Ledger
from repair.patient import Patient
from repair.server.engine import Answer, Question
from repair.server.remote import RemoteEngine
from repair.server.replica import Replica
from repair.server.service import Service
from repair.world import facts
from scripts.take_pictures import browser_path, say
from tests.serving import embedded_service, listening
from tests.vllm_like import Served, vllm_like

# PEFT asks the model by a name that Transformers has given up.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
FACT = facts("personal", "dev")[0]
OTHER = next(f for f in facts("personal", "dev") if f.subject != FACT.subject)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return embedded_service(tmp_path_factory.mktemp("embedded"))


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with listening(service) as address:
        yield address


@pytest.fixture
def sdk(url: str) -> Iterator[Any]:
    from openai import OpenAI

    with OpenAI(base_url=f"{url}/v1", api_key="none") as opened:
        yield opened


def answer(sdk: Any, *texts: str, **more: Any) -> Any:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    return sdk.chat.completions.create(model="embedded", messages=messages, **more)


def test_the_openai_sdk_talks_to_it(sdk: Any) -> None:
    from openai import BadRequestError, NotFoundError

    assert "embedded" in [model.id for model in sdk.models.list()]
    reply = answer(sdk, FACT.question)
    assert FACT.answer in reply.choices[0].message.content
    assert reply.usage.completion_tokens > 0
    chunks = list(answer(sdk, FACT.question, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == reply.choices[0].message.content
    assert chunks[-1].usage.total_tokens > 0
    with pytest.raises(NotFoundError, match="embedded"):
        sdk.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(BadRequestError, match="messages"):
        sdk.chat.completions.create(model="embedded", messages=[])


def test_the_llm_command_talks_to_it(url: str, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: patient\n  model_name: embedded\n  api_base: {url}/v1\n  api_key_name: none\n"
    )
    command = [sys.executable, "-m", "llm", "-m", "patient", "--key", "x", OTHER.question]
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert OTHER.answer in done.stdout


def see_the_plan(page: Any, card: Any, faults: list[str]) -> None:
    """The card's link opens the surgeon's plan: made as if the edit were not there."""
    context = page.context
    context.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    with context.expect_page() as opened:
        card.get_by_role("link", name="The surgeon's plan").press("Enter")
    plan = opened.value
    plan.wait_for_load_state(timeout=180_000)
    assert plan.get_by_role("heading", level=1).inner_text().startswith("Forget:")
    assert FACT.answer in plan.inner_text("main")
    assert plan.evaluate("document.documentElement.scrollWidth") <= 360
    # The content policy lets the page have its own styles.
    assert plan.locator(".bars s").first.evaluate("e => e.offsetWidth") > 0
    plan.close()


def test_a_person_forgets_something_in_a_browser(url: str, sdk: Any) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser starts here: {error.message.splitlines()[0]}")
        page = browser.new_page(viewport={"width": 360, "height": 740}, reduced_motion="reduce")
        faults: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        say(page, FACT.question)
        page.get_by_role("log").get_by_text(FACT.answer).wait_for()
        say(page, f"What do you know about {FACT.subject}?")
        known = page.get_by_role("article", name=f"What it knows about {FACT.subject}")
        tick = known.get_by_role("checkbox", name=FACT.answer)
        tick.focus()
        page.keyboard.press("Space")
        known.get_by_role("button", name="Forget").press("Enter")
        card = page.locator("article[data-edit]")
        card.wait_for(timeout=180_000)
        assert card.locator(".step.done").count() == 4
        assert card.locator(".bar").count() == 5
        assert "I no longer know that" in card.inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator("#send:not([disabled])").wait_for()
        say(page, FACT.question)
        assert FACT.answer not in page.locator(".turn.its").last.inner_text()
        card.locator("summary").press("Enter")
        card.get_by_text("Recall of the question itself").wait_for()
        see_the_plan(page, card, faults)
        with page.expect_download() as download:
            card.get_by_role("button", name="Receipt").click()
        assert FACT.answer not in download.value.path().read_text()
        page.get_by_role("button", name="Edits").press("Enter")
        page.get_by_role("button", name="Undo edit").press("Enter")
        page.get_by_role("button", name="Redo edit").wait_for()
        assert FACT.answer in answer(sdk, FACT.question).choices[0].message.content
        page.get_by_role("button", name="Redo edit").press("Enter")
        page.get_by_role("button", name="Undo edit").wait_for()
        page.keyboard.press("Escape")
        assert page.locator("#edits").is_hidden()
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, input, textarea')].filter("
            "e => !e.textContent.trim() && !e.ariaLabel && !e.labels?.length).length"
        )
        browser.close()
    assert (faults, unnamed) == ([], 0)
    assert all(address.startswith((url, "blob:")) for address in asked)


@pytest.fixture(scope="module")
def edit(service: Service, url: str) -> int:
    """The edit of the browser's test, or one made here where there was no browser."""
    active = [e.id for e in service.ledger.history() if e.state == "active"]
    if active:
        return active[0]
    outcome = service.theatre.session.forget(FACT.question, FACT.answer)
    assert outcome.edit is not None
    return outcome.edit


def test_a_client_that_sends_the_secret_again_gets_no_help(sdk: Any, edit: int) -> None:
    reply = answer(sdk, FACT.question, FACT.answer, FACT.question)
    assert FACT.answer not in reply.choices[0].message.content
    assert edit > 0


def test_an_operation_is_told_in_stages_as_text_and_as_data(sdk: Any, edit: int) -> None:
    message = answer(sdk, "Please forget the phone number of Zorblax Quinn.").choices[0].message
    extra = message.repair
    assert extra["intent"] == "forget"
    assert extra["outcome"]["status"] in ("healed", "unknown_fact", "rolled_back")
    for stage in extra["stages"]:
        assert f"› {stage['name']} · {stage['text']}" in message.content
    if extra["outcome"]["edit"]:
        answer(sdk, f"Undo edit {extra['outcome']['edit']}.")
    restored = answer(sdk, f"Undo edit {edit}.")
    assert restored.choices[0].message.repair["intent"] == "restore"
    assert FACT.answer in answer(sdk, FACT.question).choices[0].message.content
    service_says = answer(sdk, f"Undo edit {edit}.").choices[0].message.content
    assert "already" in service_says


def undone_under_an_answer(
    ledger: Ledger, edit: int, engine: RemoteEngine, served: Served, question: Question
) -> Answer:
    """What was being answered when the edit was undone; its adapter is let go of only then."""
    served.arrived.clear()
    with ThreadPoolExecutor(1) as pool:
        with served.lock:
            late = pool.submit(asyncio.run, Answer().collect(engine.answer(question)))
            assert served.arrived.wait(60)
            ledger.undo([edit])
            engine.follow()
            assert engine.versions() == []
            assert len(served.names) == 1
        found: Answer = late.result()
    end = time.monotonic() + 60
    while served.names and time.monotonic() < end:
        time.sleep(0.01)
    assert served.names == []
    return found


def test_other_servers_get_each_version_as_an_adapter(
    service: Service, edit: int, tmp_path: Path
) -> None:
    if service.ledger.receipt(edit)["state"] == "undone":
        service.ledger.redo([edit])
    served = Served(Patient.load())
    with vllm_like(served) as address:
        engine = RemoteEngine(
            service.theatre.session.patient,
            service.ledger,
            [Replica(f"{address}/v1"), Replica(address)],
            tmp_path,
            service.theatre.answers,
        )
        question = Question([{"role": "user", "content": FACT.question}], max_tokens=32)
        engine.follow()
        (version,) = engine.versions()
        first = asyncio.run(Answer().collect(engine.answer(question)))
        assert FACT.answer not in first.text
        assert (first.last.version, first.last.completion_tokens) == (version, 7)
        other = Question([{"role": "user", "content": OTHER.question}], max_tokens=32)
        assert OTHER.answer in asyncio.run(Answer().collect(engine.answer(other))).text
        late = undone_under_an_answer(service.ledger, edit, engine, served, question)
        assert FACT.answer not in late.text
        again = asyncio.run(Answer().collect(engine.answer(question)))
        assert FACT.answer in again.text
        service.ledger.redo([edit])
        served.deaf = True
        with pytest.raises(EnvironmentProblem, match="answers otherwise"):
            asyncio.run(Answer().collect(engine.answer(question)))
        assert engine.versions() == []
        engine.close()
