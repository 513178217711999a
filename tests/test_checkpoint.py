"""Loading a patient from files: what works, what is refused, and that files stay as they are."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from repair import memory
from repair.errors import (
    EnvironmentProblem,
    ModelNotEditable,
    ModelNotFound,
    NotEnoughMemory,
    UsageError,
)
from repair.patient import Patient
from repair.types import Edit
from tests.conftest import build_tiny
from tests.test_adapter import update
from tests.test_patient import ASK, IDS, changed, state


def hashes(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


def test_a_folder_loads_edits_and_is_never_written_to(tiny_folder: Path) -> None:
    before = hashes(tiny_folder)
    patient = Patient.load(tiny_folder, device="cpu")
    assert {p.dtype for p in patient.model.parameters()} == {torch.float32}
    assert Patient.load(str(tiny_folder), dtype="bfloat16").layers[0].weight.dtype == torch.bfloat16
    assert not any(p.requires_grad for p in patient.model.parameters())
    assert not patient.model.training
    untouched = patient.forward(IDS)
    patient.apply([Edit(1, (update(patient, 0, 2),))])
    assert hashes(tiny_folder) == before
    assert torch.equal(Patient.load(tiny_folder).forward(IDS), untouched)
    with pytest.raises(UsageError, match="never written to"):
        patient.save_merged(tiny_folder)
    assert hashes(tiny_folder) == before


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_a_merged_folder_is_the_edited_model(tmp_path: Path, architecture: str) -> None:
    tiny_patient = Patient(*build_tiny(architecture))
    advice: Any = tiny_patient.model.generation_config
    advice.update(temperature=0.5, do_sample=True)
    tiny_patient.apply([Edit(1, (update(tiny_patient, 0, 2),))])
    before, edited = state(tiny_patient), tiny_patient.forward(IDS)
    tiny_patient.save_merged(tmp_path / "merged")
    assert changed(tiny_patient, before) == set()
    merged = Patient.load(tmp_path / "merged")
    assert torch.equal(merged.forward(IDS), edited)
    assert merged.prompt_ids(ASK) == tiny_patient.prompt_ids(ASK)


def test_the_content_hash_names_the_untouched_weights(tiny_folder: Path) -> None:
    patient = Patient(*build_tiny("llama"))
    named = patient.content_hash
    patient.apply([Edit(1, (update(patient, 0, 2),))])
    same = Patient(*build_tiny("llama"))
    same.apply([Edit(1, (update(same, 0, 2),))])
    assert same.content_hash == named == patient.content_hash
    assert Patient(*build_tiny("llama", seed=1)).content_hash != named
    code = "import sys, repair; print(repair.Patient.load(sys.argv[1]).content_hash)"
    other = subprocess.run(
        [sys.executable, "-c", code, str(tiny_folder)], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == Patient.load(tiny_folder).content_hash


@pytest.mark.parametrize(
    "damage",
    [
        "no config",
        "config is no JSON",
        "config is a list",
        "config without model type",
        "sizes of wrong type",
        "no weights",
        "truncated weights",
        "weights are text",
        "weights missing",
        "no tokenizer",
        "broken tokenizer",
        "no language model",
    ],
)
def test_broken_files_are_one_sentence(tiny_folder: Path, damage: str) -> None:
    _damage(tiny_folder, damage)
    with pytest.raises(ModelNotFound) as caught:
        Patient.load(tiny_folder)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def _damage(folder: Path, damage: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    values: dict[str, Any] = json.loads(config.read_text())
    if damage == "no config":
        config.unlink()
    elif damage == "config is no JSON":
        config.write_text("{")
    elif damage == "config is a list":
        config.write_text("[]")
    elif damage == "config without model type":
        config.write_text(json.dumps({"hidden_size": 32}))
    elif damage == "sizes of wrong type":
        config.write_text(json.dumps({**values, "hidden_size": "many"}))
    elif damage == "no language model":
        config.write_text(json.dumps({"model_type": "vit"}))
    elif damage == "no weights":
        weights.unlink()
    elif damage == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "weights are text":
        weights.write_text("version https://git-lfs.github.com/spec/v1")
    elif damage == "weights missing":
        config.write_text(json.dumps({**values, "num_hidden_layers": 3, "layer_types": None}))
    elif damage == "broken tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    elif damage == "no tokenizer":
        for file in folder.glob("tokenizer*"):
            file.unlink()


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./nothing", "nobody/no-model", "a b c", "x" * 300]
)
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        Patient.load(name)
    assert name[:80] in caught.value.message


def test_a_cached_hub_model_loads_offline(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub" / "models--someone--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("a" * 40)
    (cache / "snapshots").mkdir()
    tiny_folder.rename(cache / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    patient = Patient.load("someone/tiny")
    assert patient.name == "someone/tiny"
    with pytest.raises(ModelNotFound, match="neither a folder here nor in the Hub's cache"):
        Patient.load("someone/tiny", revision="other")


def test_a_missing_embedded_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("repair.checkpoint.EMBEDDED", tmp_path)
    with pytest.raises(ModelNotFound, match="embedded model is missing"):
        Patient.load()


def test_quantised_weights_are_refused_before_loading(tiny_folder: Path) -> None:
    config = tiny_folder / "config.json"
    values = {**json.loads(config.read_text()), "quantization_config": {"quant_method": "awq"}}
    config.write_text(json.dumps(values))
    with pytest.raises(ModelNotEditable, match="quantised"):
        Patient.load(tiny_folder)


def test_too_little_memory_is_said_in_figures(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = memory.read_weights(tiny_folder)
    values = sum(p.numel() for p in build_tiny("llama")[0].parameters())
    assert weights.counts == {"BF16": values}
    assert memory.bytes_needed(weights, torch.float32) == int(4 * values * 4 / 3)
    assert memory.bytes_free(torch.device("cpu")) > 0
    monkeypatch.setattr("repair.memory.bytes_free", lambda device: 1000)
    with pytest.raises(NotEnoughMemory, match=r"needs about .* GB in float32 and 0\.0 GB are free"):
        Patient.load(tiny_folder, device="cpu")


def test_wrong_types_and_devices_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(UsageError, match="no type int3"):
        Patient.load(tiny_folder, dtype="int3")
    with pytest.raises(UsageError, match="no device abacus"):
        Patient.load(tiny_folder, device="abacus")
    with pytest.raises(EnvironmentProblem, match="has no device cuda:99"):
        Patient.load(tiny_folder, device="cuda:99")
