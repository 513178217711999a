"""llama.cpp with exported files gives the patient's own tokens; run by ``make test-engines``.

``ENGINES`` names the folder with node-llama-cpp, which brings llama.cpp prebuilt.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from repair.cli.app import app
from repair.export.folder import export
from repair.patient import Patient
from repair.plan import MAX_ANSWER_TOKENS
from repair.retain import RETAIN_QUESTIONS
from repair.session import Session
from repair.world import facts
from tests.forgotten import NEIGHBOUR, QUESTION, forgotten

SCRIPT = Path(__file__).with_name("llama.mjs")
QUESTIONS = (
    QUESTION,
    NEIGHBOUR.question,
    *(f.question for f in facts("personal", "dev")[:20]),
    *(f.question for f in facts("harmful", "dev")[:10]),
    *RETAIN_QUESTIONS,
)


@pytest.fixture(scope="module")
def session() -> Session:
    return forgotten()


@pytest.fixture(scope="module")
def folder(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "out"
    export(session.patient, out, "gguf", ledger=session.ledger)
    return out


def _environment() -> dict[str, str]:
    return {**os.environ, "ENGINES": str(Path(os.environ["ENGINES"]).resolve())}


def _prompts(patient: Patient) -> list[list[int]]:
    return [patient.prompt_ids([{"role": "user", "content": q}]) for q in QUESTIONS]


def _written_prompts(folder: Path) -> list[str]:
    """The questions under the chat template that the GGUF file holds."""
    from gguf import GGUFReader
    from jinja2 import Template

    fields = GGUFReader(folder / "base.gguf").fields
    template = Template(fields["tokenizer.chat_template"].contents())
    return [
        template.render(messages=[{"role": "user", "content": q}], add_generation_prompt=True)
        for q in QUESTIONS
    ]


def _llama_cpp(folder: Path, prompts: list[list[int]], *, adapter: bool) -> list[dict[str, Any]]:
    texts = _written_prompts(folder)
    job = {
        "base": str(folder / "base.gguf"),
        "adapter": str(folder / "adapter.gguf") if adapter else None,
        "prompts": [{"ids": i, "text": t} for i, t in zip(prompts, texts, strict=True)],
        "tokens": MAX_ANSWER_TOKENS,
    }
    (folder / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        ["node", SCRIPT, "tokens", folder / "job.json"],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def test_base_and_adapter_give_the_edited_patients_tokens(session: Session, folder: Path) -> None:
    prompts = _prompts(session.patient)
    wanted = session.patient.generate_ids(prompts, MAX_ANSWER_TOKENS)
    found = _llama_cpp(folder, prompts, adapter=True)
    assert [result["ids"] for result in found] == wanted
    assert [result["prompt"] for result in found] == prompts, "text is split otherwise there"


def test_the_base_alone_gives_the_untouched_patients_tokens(session: Session, folder: Path) -> None:
    prompts, active = _prompts(session.patient), session.patient.active
    edited = session.patient.generate_ids(prompts, MAX_ANSWER_TOKENS)
    session.patient.apply(())
    try:
        wanted = session.patient.generate_ids(prompts, MAX_ANSWER_TOKENS)
    finally:
        session.patient.apply(active)
    assert wanted != edited
    found = _llama_cpp(folder, prompts, adapter=False)
    assert [result["ids"] for result in found] == wanted


@contextmanager
def _served(*files: Path) -> Iterator[str]:
    with subprocess.Popen(
        ["node", SCRIPT, "serve", *files],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(),
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.communicate()


@pytest.mark.parametrize(("adapter", "code"), [(True, 0), (False, 1)])
def test_verify_asks_llama_cpp(session: Session, folder: Path, adapter: bool, code: int) -> None:
    files = [folder / "base.gguf", *([folder / "adapter.gguf"] if adapter else [])]
    given = ["verify", "--home", str(session.home), "--canaries", str(folder), "--json"]
    with _served(*files) as url:
        result = CliRunner().invoke(app, [*given, "--endpoint", url])
    record = json.loads(result.stdout)
    assert result.exit_code == code, record
    assert record["kept"]["recall"] == 1.0
    assert (record["edits"][0]["recall"] == 0.0) == adapter
