"""Edits as a PEFT folder: base and adapter together must be the edited model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from repair.adapter import CONFIG_FILE, WEIGHTS_FILE, load_peft
from repair.errors import DiskFull, UsageError
from repair.patient import Patient
from repair.types import Edit, LowRankUpdate
from tests.conftest import build_tiny

if TYPE_CHECKING:
    from tests.conftest import MakeTiny

IDS = [[1, 7, 8, 9], [1, 20, 21]]
# PEFT asks transformers by a name that transformers has renamed.
renamed = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def update(patient: Patient, layer: int, rank: int, seed: int = 0) -> LowRankUpdate:
    output = patient.layers[layer]
    random = torch.Generator().manual_seed(seed)
    return LowRankUpdate(
        layer,
        0.3 * torch.randn(output.out_features, rank, generator=random),
        0.3 * torch.randn(rank, output.in_features, generator=random),
    )


@renamed
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "falcon", "gemma3_text"])
def test_peft_gives_the_edited_model(
    make_tiny: MakeTiny, tmp_path: Path, architecture: str
) -> None:
    from peft import PeftModel

    patient = Patient(*make_tiny(architecture))
    untouched = patient.forward(IDS)
    first = Edit(1, (update(patient, 0, 3), update(patient, 1, 2, seed=1)))
    patient.apply([Edit(2, (update(patient, 1, 4, seed=2),)), first])
    edited = patient.forward(IDS)
    patient.save_adapter(tmp_path / "adapter")

    fresh, tokenizer = make_tiny(architecture)
    loaded = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter"))
    plain = loaded.merge_and_unload()
    result = Patient(plain, tokenizer).forward(IDS)
    assert torch.allclose(result, edited, atol=1e-5)
    assert not torch.allclose(result, untouched, atol=1e-2)


@renamed
def test_peft_runs_the_adapter_unmerged(tmp_path: Path) -> None:
    from peft import PeftModel

    patient = Patient(*build_tiny("llama"))
    patient.apply([Edit(1, (update(patient, 1, 3),))])
    edited = patient.forward([IDS[0]])
    patient.save_adapter(tmp_path)
    loaded = PeftModel.from_pretrained(build_tiny("llama")[0], str(tmp_path)).eval()
    with torch.no_grad():
        logits = loaded(torch.tensor([IDS[0]])).logits
    assert torch.allclose(logits, edited, atol=1e-5)


def test_the_folder_has_one_rank_and_alpha_equal_to_it(
    tiny_patient: Patient, tmp_path: Path
) -> None:
    tiny_patient.apply([Edit(1, (update(tiny_patient, 0, 5), update(tiny_patient, 1, 2)))])
    tiny_patient.save_adapter(tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (5, 5, {})
    assert config["target_modules"] == [
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    ]
    assert config["base_model_name_or_path"] == "tiny"
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")


def test_what_is_saved_is_loaded(tiny_patient: Patient, tmp_path: Path) -> None:
    updates = (update(tiny_patient, 0, 5), update(tiny_patient, 1, 2, seed=3))
    tiny_patient.apply([Edit(1, updates)])
    tiny_patient.save_adapter(tmp_path)
    loaded = load_peft(tmp_path)
    assert [item.layer for item in loaded] == [0, 1]
    for saved, item in zip(updates, loaded, strict=True):
        assert torch.equal(saved.a, item.a)
        assert torch.equal(saved.b, item.b)


def test_a_foreign_scale_is_multiplied_in(tiny_patient: Patient, tmp_path: Path) -> None:
    only = update(tiny_patient, 0, 4)
    tiny_patient.apply([Edit(1, (only,))])
    tiny_patient.save_adapter(tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    config["lora_alpha"] = 8
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    assert torch.allclose(load_peft(tmp_path)[0].b, 2 * only.b)


def test_no_edit_is_no_adapter(tiny_patient: Patient, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no active edit"):
        tiny_patient.save_adapter(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("damage", ["missing", "config", "weights", "dora", "key"])
def test_a_broken_adapter_is_one_sentence(
    tiny_patient: Patient, tmp_path: Path, damage: str
) -> None:
    tiny_patient.apply([Edit(1, (update(tiny_patient, 0, 2),))])
    folder = tmp_path / "adapter"
    tiny_patient.save_adapter(folder)
    config = json.loads((folder / CONFIG_FILE).read_text())
    if damage == "missing":
        folder = tmp_path / "nowhere"
    elif damage == "config":
        (folder / CONFIG_FILE).write_text("[1, 2")
    elif damage == "weights":
        (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:50])
    elif damage == "dora":
        (folder / CONFIG_FILE).write_text(json.dumps({**config, "use_dora": True}))
    else:
        from safetensors.torch import save_file

        save_file({"something.else": torch.ones(2, 2)}, folder / WEIGHTS_FILE)
    with pytest.raises(UsageError, match="adapter in"):
        load_peft(folder)


def test_a_folder_that_cannot_be_written(tiny_patient: Patient, tmp_path: Path) -> None:
    tiny_patient.apply([Edit(1, (update(tiny_patient, 0, 2),))])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskFull, match="cannot be written"):
        tiny_patient.save_adapter(tmp_path / "file" / "adapter")
