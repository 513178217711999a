"""Models that no single device holds: edited where their layers lie, and undone to the bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from repair import memory
from repair.activations import Rows, edit_in_one_pass
from repair.errors import NotEnoughMemory
from repair.patient import Patient
from repair.stamp import LowRank, Statistics, stamp_low_rank
from repair.types import Edit, LowRankUpdate
from tests.test_adapter import update

IDS = [[1, 7, 8, 9, 12, 30], [1, 20, 21]]
LAYOUTS = {
    "main memory and disk": {"": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"},
    "disk alone": {"": "disk"},
}


def laid_out(folder: Path, scratch: Path, layout: dict[str, str]) -> Patient:
    """The checkpoint with its layers where ``layout`` says."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parts = {"model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"}
    places = {part: layout.get(part, layout[""]) for part in parts}
    places |= {"model.rotary_emb": "cpu"}
    factory: Any = AutoModelForCausalLM
    model = factory.from_pretrained(
        folder, device_map=places, offload_folder=str(scratch), dtype=torch.float32
    )
    return Patient(model, AutoTokenizer.from_pretrained(folder), name="laid out")


def solved(patient: Patient) -> tuple[LowRankUpdate, ...]:
    rows = Rows.of(IDS, [(0, 4), (0, 5), (1, 2)])
    known = Statistics(torch.eye(48)[:, :8].contiguous(), torch.ones(8), 0.01)

    def solve(_: int, keys: Tensor, residual: Tensor) -> LowRank:
        return stamp_low_rank(keys, residual, statistics=known, beta=1.0, ridge=0.1)

    return edit_in_one_pass(patient, rows, [0, 1], lambda _, o: o.roll(1, 0), solve)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_an_edit_is_the_same_wherever_the_layers_lie(
    tiny_folder: Path, tmp_path: Path, layout: dict[str, str]
) -> None:
    files = {path: path.read_bytes() for path in tiny_folder.iterdir()}
    whole = Patient.load(tiny_folder, dtype="float32", device="cpu")
    patient = laid_out(tiny_folder, tmp_path / "scratch", layout)
    assert patient.layers[1].module.weight.is_meta, "nothing was laid out"
    before = patient.forward(IDS)
    torch.testing.assert_close(before, whole.forward(IDS))
    found, wanted = solved(patient), solved(whole)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.b @ one.a, other.b @ other.a, rtol=1e-4, atol=1e-5)
    patient.apply([Edit(1, found), Edit(2, (update(patient, 1, 2),))])
    whole.apply([Edit(1, found), Edit(2, (update(whole, 1, 2),))])
    torch.testing.assert_close(patient.forward(IDS), whole.forward(IDS))
    assert not torch.equal(patient.forward(IDS), before)
    prompt = [[1, 7, 8]]
    assert patient.generate_ids(prompt, 6) == whole.generate_ids(prompt, 6)
    patient.apply([])
    assert torch.equal(patient.forward(IDS), before)
    assert files == {path: path.read_bytes() for path in tiny_folder.iterdir()}


def test_auto_lays_out_what_one_device_cannot_hold(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Patient.load(tiny_folder, dtype="float32", device="cpu")
    needed = memory.bytes_needed(memory.read_weights(tiny_folder), torch.float32)
    monkeypatch.setattr(memory, "bytes_free", lambda _: needed * 2 // 3)
    with pytest.raises(NotEnoughMemory, match="free on cpu"):
        Patient.load(tiny_folder, dtype="float32", device="cpu")
    patient = Patient.load(tiny_folder, dtype="float32")
    assert any(p.is_meta for p in patient.model.parameters()), "all of it was held"
    torch.testing.assert_close(patient.forward(IDS), whole.forward(IDS))
    edit = Edit(1, tuple(update(patient, layer, 2) for layer in (0, 1)))
    patient.apply([edit])
    whole.apply([edit])
    torch.testing.assert_close(patient.forward(IDS), whole.forward(IDS))


def test_two_processes_edit_their_parts_of_each_layer(tiny_folder: Path, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = root / "tests" / "tensor_parallel_worker.py"
    done = subprocess.run(
        [*command, str(worker), str(tiny_folder), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole = Patient.load(tiny_folder, dtype="float32", device="cpu")
    wanted = solved(whole)
    whole.apply([Edit(1, wanted)])
    logits, said = whole.forward(IDS), whole.generate_ids([[1, 7, 8]], 6)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["columns"] == 24, "each process holds half of W's 48 columns"
        for (b, a), update_ in zip(found["updates"], wanted, strict=True):
            torch.testing.assert_close(b @ a, update_.b @ update_.a, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found["edited"], logits, rtol=1e-3, atol=1e-4)
        assert found["said"] == said
        assert found["undone"]
