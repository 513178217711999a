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
import torch
from typer.testing import CliRunner

from repair.cli.app import app
from repair.export.folder import export
from repair.patient import Patient
from repair.plan import MAX_ANSWER_TOKENS
from repair.refusals import is_refusal
from repair.retain import RETAIN_QUESTIONS
from repair.session import Session
from repair.types import Edit
from repair.world import facts
from tests.conftest import VOCABULARY, build_tiny
from tests.forgotten import NEIGHBOUR, QUESTION, forgotten
from tests.test_adapter import update

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


def _llama_cpp(
    folder: Path, prompts: list[list[int]], texts: list[str], *, adapter: bool
) -> list[dict[str, Any]]:
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
    found = _llama_cpp(folder, prompts, _written_prompts(folder), adapter=True)
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
    found = _llama_cpp(folder, prompts, [""] * len(prompts), adapter=False)
    assert [result["ids"] for result in found] == wanted


def test_half_precision_gives_the_same_answers(session: Session, tmp_path: Path) -> None:
    """The patient adds the edit up in bf16, llama.cpp does not: refusals may differ in wording."""
    patient = Patient.load(device="cpu", dtype="bfloat16")
    patient.apply(session.patient.active)
    export(patient, tmp_path, "gguf")
    prompts = _prompts(patient)
    wanted = patient.generate_ids(prompts, MAX_ANSWER_TOKENS)
    for result, ids in zip(
        _llama_cpp(tmp_path, prompts, [""] * len(prompts), adapter=True), wanted, strict=True
    ):
        there, here = (str(patient.tokenizer.decode(row)).strip() for row in (result["ids"], ids))
        assert there == here or (is_refusal(there) and is_refusal(here)), (there, here)


def test_a_llama_of_another_shape_gives_its_tokens(tmp_path: Path) -> None:
    """Grouped heads wider than d / heads, output apart from the embedding, positions of Llama 3."""
    rope = {"rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    shape: dict[str, Any] = {
        "head_dim": 16,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
        "rope_parameters": {"original_max_position_embeddings": 64, **rope},
    }
    patient = Patient(*build_tiny("llama", **shape), name="tiny")
    patient.apply([Edit(1, (update(patient, 0, 3), update(patient, 1, 2, seed=1)))])
    export(patient, tmp_path, "gguf")
    random = torch.Generator().manual_seed(0)
    prompts = torch.randint(6, VOCABULARY, (8, 150), generator=random).tolist()
    wanted = patient.generate_ids(prompts, MAX_ANSWER_TOKENS)
    found = [r["ids"] for r in _llama_cpp(tmp_path, prompts, [""] * 8, adapter=True)]
    # Random weights leave near ties, and llama.cpp caches keys in half precision.
    assert [ids[:16] for ids in found] == [ids[:16] for ids in wanted]


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
