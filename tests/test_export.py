"""Edits for other programs: each format in the hands of the program that it is for."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from repair.adapter import CONFIG_FILE, WEIGHTS_FILE, composed, load_peft
from repair.checkpoint import EMBEDDED
from repair.cli.app import app
from repair.errors import DiskFull, EnvironmentProblem, ExportUnsupported, UsageError
from repair.export import canaries
from repair.export.folder import export
from repair.export.gguf_files import ADAPTER, BASE
from repair.export.gguf_tokens import read_tokens
from repair.patient import Patient
from repair.session import Session
from repair.types import Edit, SealedProbe
from repair.vault import Vault
from tests.conftest import build_tiny
from tests.forgotten import ANSWER, NEIGHBOUR, QUESTION, forgotten
from tests.test_adapter import IDS, renamed, update

WORDS = re.findall(r"\w{3,}", ANSWER)


@pytest.fixture
def session() -> Session:
    return forgotten()


def edited_tiny(architecture: str = "llama", **more: Any) -> Patient:
    patient = Patient(*build_tiny(architecture, **more), name="tiny")
    first = Edit(1, (update(patient, 0, 3), update(patient, 1, 2, seed=1)))
    patient.apply([first, Edit(2, (update(patient, 1, 4, seed=2),))])
    return patient


def probe_ids(patient: Patient) -> list[list[int]]:
    return [patient.encode([{"role": "user", "content": QUESTION}], ANSWER)[0]]


# PEFT


@renamed
def test_peft_loads_the_adapter_and_computes_the_edited_patient(
    session: Session, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    record = export(session.patient, tmp_path, "peft", ledger=session.ledger)
    assert record["rank"] == record["exact_rank"] > 0
    assert record["error"] == 0.0
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    (ids,) = probe_ids(session.patient)
    # In double precision: fp32 adds in another order on another machine, which alone is 1e-5.
    with torch.no_grad():
        logits = loaded.double()(torch.tensor([ids])).logits
        edited = copy.deepcopy(session.patient.model).double()(torch.tensor([ids])).logits
    assert float((logits - edited).abs().max()) <= 1e-5
    with torch.no_grad(), loaded.disable_adapter():
        assert not torch.allclose(loaded(torch.tensor([ids])).logits, edited, atol=0.1)


def test_past_a_rank_limit_the_loss_is_told(tmp_path: Path) -> None:
    patient = edited_tiny()
    exact = composed(patient.active)
    whole = export(patient, tmp_path / "whole", max_rank=6)
    assert (whole["rank"], whole["exact_rank"], whole["error"]) == (6, 6, 0.0)
    record = export(patient, tmp_path / "low", max_rank=4)
    assert (record["rank"], record["exact_rank"]) == (4, 6)
    config = json.loads((tmp_path / "low" / CONFIG_FILE).read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    lost = []
    for low in load_peft(tmp_path / "low"):
        b, a = exact.factors[low.place]
        assert low.b.shape[1] == low.a.shape[0] <= 4
        lost.append(float(torch.linalg.norm(b @ a - low.b @ low.a) / torch.linalg.norm(b @ a)))
    assert 0.0 < max(lost) < 1.0
    assert record["error"] == pytest.approx(max(lost), rel=1e-3)
    card = (tmp_path / "low" / "README.md").read_text()
    assert f"{record['error']:.2%}" in card
    assert "rank 6" in card


# Merged


def test_transformers_loads_the_merged_folder(session: Session, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export(session.patient, tmp_path, "merged", ledger=session.ledger)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    (ids,) = probe_ids(session.patient)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits
    assert torch.equal(logits, session.patient.forward([ids]))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(QUESTION).input_ids == session.patient.tokenizer(QUESTION).input_ids


def test_a_merged_model_goes_out_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repair.saving.SHARD", "30KB")
    patient = edited_tiny()
    export(patient, tmp_path / "out", "merged")
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert max(shard.stat().st_size for shard in shards) < 50_000
    assert torch.equal(Patient.load(tmp_path / "out").forward(IDS), patient.forward(IDS))


# GGUF; `make test-engines` asks llama.cpp itself


def test_the_gguf_files_hold_base_and_edits(tmp_path: Path) -> None:
    from gguf import GGUFReader

    patient = edited_tiny()
    active = patient.active
    record = export(patient, tmp_path, "gguf")
    assert patient.active == active
    base = {t.name: torch.tensor(t.data) for t in GGUFReader(tmp_path / BASE).tensors}
    assert torch.equal(
        base["blk.0.ffn_down.weight"], build_tiny("llama")[0].model.layers[0].mlp.down_proj.weight
    )
    assert set(base) == {
        "token_embd.weight",
        "output_norm.weight",
        "output.weight",
        *(f"blk.{layer}.{part}.weight" for layer in range(2) for part in PARTS),
    }
    reader = GGUFReader(tmp_path / ADAPTER)
    assert reader.fields["adapter.type"].contents() == "lora"
    assert reader.fields["adapter.lora.alpha"].contents() == record["rank"]
    factors = {t.name: torch.tensor(t.data) for t in reader.tensors}
    for (layer, part), (b, a) in composed(active).factors.items():
        assert part == "output"
        assert torch.equal(factors[f"blk.{layer}.ffn_down.weight.lora_a"], a)
        assert torch.equal(factors[f"blk.{layer}.ffn_down.weight.lora_b"], b)


PARTS = [
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up",
    "ffn_down",
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gguf_keeps_the_type_of_the_weights(tmp_path: Path, dtype: str) -> None:
    from gguf import GGUFReader

    export(edited_tiny(dtype=dtype), tmp_path, "gguf")
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / BASE).tensors}
    assert kinds["blk.1.ffn_down.weight"] == {"bfloat16": "BF16", "float16": "F16"}[dtype]
    assert kinds["output_norm.weight"] == "F32"


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_gguf_refuses_what_it_cannot_hold(tmp_path: Path, architecture: str) -> None:
    with pytest.raises(ExportUnsupported, match=f"for Llama, not {architecture}") as caught:
        export(edited_tiny(architecture), tmp_path / "out", "gguf")
    assert "--format merged" in caught.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reason", ["rope", "act", "normalizer", "rule", "size"])
def test_gguf_refuses_another_llama(tmp_path: Path, reason: str) -> None:
    from tokenizers import normalizers, pre_tokenizers

    patient = edited_tiny()
    config: Any = patient.model.config
    backend: Any = getattr(patient.tokenizer, "backend_tokenizer")  # noqa: B009
    if reason == "rope":
        config.rope_parameters = {**config.rope_parameters, "rope_type": "yarn"}
    elif reason == "act":
        config.hidden_act = "gelu"
    elif reason == "normalizer":
        backend.normalizer = normalizers.Lowercase()
    elif reason == "rule":
        parts = [pre_tokenizers.CharDelimiterSplit("e"), pre_tokenizers.ByteLevel(use_regex=False)]
        backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    else:
        config.vocab_size = 10
    with pytest.raises(ExportUnsupported) as caught:
        export(patient, tmp_path / "out", "gguf")
    assert caught.value.remedy


def test_a_missing_gguf_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(EnvironmentProblem, match=r"pip install 'repair-unlearning\[gguf\]'"):
        export(edited_tiny(), tmp_path / "out", "gguf")


def test_the_tokenizer_of_the_embedded_model_is_found_a_rule(session: Session) -> None:
    config: Any = session.patient.model.config
    tokens = read_tokens(session.patient.tokenizer, config.vocab_size)
    assert len(tokens.tokens) == config.vocab_size
    assert tokens.rule in ("gpt-2", "smollm", "qwen2", "llama-bpe")


# What travels with every export


@pytest.mark.parametrize("format", ["peft", "merged", "gguf"])
def test_card_and_canaries_hold_no_plain_text_of_what_was_forgotten(
    session: Session, tmp_path: Path, format: str
) -> None:
    record = export(session.patient, tmp_path, format, ledger=session.ledger)
    card = (tmp_path / "README.md").read_text()
    text = (tmp_path / canaries.FILE).read_text()
    for word in (*WORDS, *NEIGHBOUR.subject.split(), QUESTION):
        assert word not in card
        assert word not in text
    assert "together reveal what was forgotten" in card
    assert "no longer gives it away under these tests" in card
    assert "1.00 → 0.00" in card
    assert f"library_name: {'transformers' if format == 'merged' else format}" in card
    assert str(EMBEDDED) not in card
    read = canaries.load(tmp_path, session.ledger.vault)
    assert dict(read.edits) == {1: session.ledger.probes(1)}
    assert ("What is the capital of France?", "Paris") in read.kept
    assert record["canaries"] == len(session.ledger.probes(1)) + len(read.kept)


def test_a_kept_answer_never_tells_a_forgotten_one(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    sealed = SealedProbe("exact", "Tell me the capital of Kenya.", vault.words(["nairobi"]))

    def answer(questions: Sequence[str]) -> list[str]:
        return ["It is Nairobi" if "Kenya" in question else "Something" for question in questions]

    kept = canaries.with_kept(canaries.Canaries({1: (sealed,)}), vault, answer).kept
    assert kept
    assert not any("Nairobi" in reply for _, reply in kept)


def test_the_api_writes_the_same(session: Session, tmp_path: Path) -> None:
    assert session.export(tmp_path / "out", "peft", max_rank=1) == tmp_path / "out"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {CONFIG_FILE, WEIGHTS_FILE, "README.md", canaries.FILE}
    assert session.export(tmp_path / "out") == tmp_path / "out", "an earlier export is replaced"


def test_the_command_line_tells_rank_and_loss(session: Session, tmp_path: Path) -> None:
    given = ["export", str(tmp_path / "out"), "--home", str(session.home)]
    result = CliRunner().invoke(app, [*given, "--max-rank", "1"])
    assert result.exit_code == 0
    assert re.search(r"^rank 1 instead of \d+; lost: \d+\.\d\d% of a layer", result.stdout, re.M)
    result = CliRunner().invoke(app, [*given, "--format", "merged", "--max-rank", "8", "--json"])
    assert result.exit_code == 2
    assert "no rank to limit" in json.loads(result.stdout)["error"]["message"]


# Bad input


@pytest.mark.parametrize("format", ["peft", "merged", "gguf"])
def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path: Path, format: str) -> None:
    patient = edited_tiny()
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="at least 1" if format != "merged" else "no rank"):
        export(patient, out, format, max_rank=0)
    with pytest.raises(UsageError, match="no format 'zip'"):
        export(patient, out, "zip")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskFull, match="cannot be written"):
        export(patient, tmp_path / "file" / "out", format)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "README.md").write_text("# My project")
    with pytest.raises(UsageError, match=r"README\.md that is no export's"):
        export(patient, foreign, format)
    assert [path.name for path in foreign.iterdir()] == ["README.md"]
    other = "gguf" if format != "gguf" else "peft"
    export(patient, tmp_path / "other", other)
    with pytest.raises(UsageError, match=f"holds an export as {other}"):
        export(patient, tmp_path / "other", format)
    patient.apply(())
    with pytest.raises(UsageError, match="no active edit"):
        export(patient, out, format)
    assert not out.exists()


def test_the_models_own_folder_is_never_written_to(tiny_folder: Path) -> None:
    patient = Patient.load(tiny_folder)
    patient.apply([Edit(1, (update(patient, 0, 2),))])
    before = {path: path.stat().st_mtime_ns for path in tiny_folder.iterdir()}
    for format in ("peft", "merged", "gguf"):
        with pytest.raises(UsageError, match="never written to"):
            export(patient, tiny_folder, format)
    assert {path: path.stat().st_mtime_ns for path in tiny_folder.iterdir()} == before
