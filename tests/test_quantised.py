"""Quantised bases: the edit lies beside the packed weight, and leaving it out is exact."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from repair import memory
from repair.cli.app import app
from repair.errors import EnvironmentProblem, ExportUnsupported, ModelNotEditable, UsageError
from repair.patient import Patient
from repair.session import Session
from repair.types import Edit, Quantization
from tests.conftest import build_tiny
from tests.forgotten import ANSWER, NEIGHBOUR, QUESTION, ask
from tests.test_adapter import renamed, update
from tests.test_patient import IDS, changed, state

KINDS: tuple[Quantization, ...] = ("bnb_4bit", "bnb_8bit")


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedded_patient_forgets_on_a_quantised_base(
    tmp_path: Path, kind: Quantization
) -> None:
    patient = Patient.load(device="cpu", quantization=kind)
    assert patient.quantised
    session = Session(patient, home=tmp_path)
    ids = [patient.encode([{"role": "user", "content": QUESTION}], ANSWER)[0]]
    before, weights = patient.forward(ids), state(patient)
    assert ANSWER in ask(patient, QUESTION)
    neighbour = ask(patient, NEIGHBOUR.question)
    outcome = session.forget(QUESTION)
    assert outcome.status == "healed", outcome.reason
    assert outcome.measures["recall"].after == 0.0
    assert ANSWER not in ask(patient, QUESTION)
    assert ask(patient, NEIGHBOUR.question) == neighbour
    assert changed(patient, weights) == set()
    edited = patient.forward(ids)
    assert not torch.equal(edited, before)
    session.undo()
    assert torch.equal(patient.forward(ids), before)
    session.redo()
    assert torch.equal(patient.forward(ids), edited)


def tiny(folder: Path, kind: Quantization, architecture: str = "llama") -> Patient:
    model, tokenizer = build_tiny(architecture)
    if not folder.exists():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return Patient.load(folder, device="cpu", quantization=kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_any_order_of_edits_ends_in_the_same_bits(
    tmp_path: Path, kind: Quantization, architecture: str
) -> None:
    patient = tiny(tmp_path / "model", kind, architecture)
    untouched, weights = patient.forward(IDS), state(patient)
    edits = [Edit(i, (update(patient, 0, 2, i), update(patient, 1, 3, -i))) for i in (1, 2, 3)]
    patient.apply([edits[0], edits[2]])
    wanted = patient.forward(IDS)
    assert not torch.allclose(wanted, untouched, atol=1e-3)
    patient.apply(edits)
    patient.apply([])
    assert torch.equal(patient.forward(IDS), untouched)
    patient.apply([edits[2], edits[0]])
    assert torch.equal(patient.forward(IDS), wanted)
    with patient.trial(edits[1].updates):
        assert not torch.equal(patient.forward(IDS), wanted)
    assert torch.equal(patient.forward(IDS), wanted)
    assert changed(patient, weights) == set()
    plain = tiny(tmp_path / "model", kind, architecture)
    assert plain.content_hash == patient.content_hash


@renamed
@pytest.mark.parametrize("kind", KINDS)
def test_peft_on_the_same_quantised_base_is_the_edited_patient(
    tmp_path: Path, kind: Quantization
) -> None:
    from peft import PeftModel

    patient = tiny(tmp_path / "model", kind)
    patient.apply([Edit(1, (update(patient, 0, 3), update(patient, 1, 2, seed=1)))])
    patient.save_adapter(tmp_path / "adapter")
    base = tiny(tmp_path / "model", kind)
    loaded = PeftModel.from_pretrained(base.model, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        logits = loaded(torch.tensor([IDS[0]])).logits
    assert torch.allclose(logits, patient.forward([IDS[0]]), atol=1e-5)


def test_what_was_stored_packed_is_loaded_as_it_is(tmp_path: Path) -> None:
    patient = tiny(tmp_path / "model", "bnb_4bit")
    model: Any = patient.model
    model.save_pretrained(tmp_path / "packed")
    patient.tokenizer.save_pretrained(tmp_path / "packed")
    again = Patient.load(tmp_path / "packed", device="cpu")
    assert again.quantised
    assert torch.equal(again.forward(IDS), patient.forward(IDS))
    again.apply([Edit(1, (update(again, 0, 2),))])
    again.apply([])
    assert torch.equal(again.forward(IDS), patient.forward(IDS))
    with pytest.raises(UsageError, match="quantised already"):
        Patient.load(tmp_path / "packed", device="cpu", quantization="bnb_8bit")


def test_another_quantisation_keeps_its_named_error(tiny_folder: Path) -> None:
    config = tiny_folder / "config.json"
    values = {**json.loads(config.read_text()), "quantization_config": {"quant_method": "gptq"}}
    config.write_text(json.dumps(values))
    with pytest.raises(ModelNotEditable, match=r"already quantised \(gptq\)"):
        Patient.load(tiny_folder)


def test_packed_weights_are_exported_as_an_adapter_only(tmp_path: Path) -> None:
    from repair.export.folder import export

    patient = tiny(tmp_path / "model", "bnb_8bit")
    patient.apply([Edit(1, (update(patient, 0, 2),))])
    for format in ("merged", "gguf"):
        with pytest.raises(ExportUnsupported, match="uantised weights") as caught:
            export(patient, tmp_path / format, format)
        assert "without --quantization" in caught.value.remedy
        assert not (tmp_path / format).exists()
    export(patient, tmp_path / "adapter")
    assert "quantised base" in (tmp_path / "adapter" / "README.md").read_text()
    with pytest.raises(ModelNotEditable, match="quantised"):
        patient.original(1)


def test_wrong_and_missing_quantisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    wrong: Any = "int3"
    with pytest.raises(UsageError, match="no quantisation 'int3'"):
        tiny(tmp_path / "model", wrong)
    result = CliRunner().invoke(app, ["ask", "hello", "--quantization", "int3", "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["message"].startswith("quantization")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'repair-unlearning\[quant\]'"):
        tiny(tmp_path / "model", "bnb_4bit")


def test_a_packed_model_needs_less_memory() -> None:
    weights = memory.Weights({"BF16": 8_000_000_000})
    full = memory.bytes_needed(weights, torch.bfloat16)
    eight, four = (memory.bytes_needed(weights, torch.bfloat16, bits) for bits in (8.0, 4.5))
    assert full > eight > four > 0.25 * full
