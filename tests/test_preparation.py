"""What an edit needs to know of a model: computed once, kept under the model's hash."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from repair.activations import keys_of_text
from repair.patient import Patient
from repair.preparation import ANSWERS, Preparation, compute, imagine, load, prepare, save
from repair.stamp import second_moment
from tests.prepared import preparation, tiny

IDS = [[1, 9, 8, 7, 6, 5], [1, 20, 21], [1, 30, 31, 32], [1, 40, 41, 42, 43]]
TEXTS = [(ids, 2) for ids in IDS]


def _equal(one: Preparation, other: Preparation, tolerance: float) -> bool:
    return one.statistics.keys() == other.statistics.keys() and all(
        torch.allclose(
            one.statistics[layer].matrix(), other.statistics[layer].matrix(), atol=tolerance
        )
        and torch.equal(one.refusal[layer], other.refusal[layer])
        for layer in one.statistics
    )


def test_it_holds_the_second_moment_of_all_keys_and_a_refusal_of_each_layer(
    tiny_patient: Patient,
) -> None:
    made = compute(tiny_patient, TEXTS)
    for layer in (0, 1):
        whole = [(ids, range(len(ids))) for ids in IDS]
        # The token before an answer's first predicts it; the last predicts nothing.
        said = [(ids, range(1, len(ids) - 1)) for ids in IDS]
        keys, answers = (
            torch.cat([k[layer] for k in keys_of_text(tiny_patient, texts, [0, 1])])
            for texts in (whole, said)
        )
        statistics = made.statistics[layer]
        u, s = statistics.u.double(), statistics.s
        assert torch.allclose(u.T @ u, torch.eye(len(s), dtype=torch.float64), atol=1e-5)
        assert torch.equal(s, s.sort(descending=True).values)
        assert float(s.min()) >= 0
        expected = second_moment(keys) + ANSWERS * second_moment(answers)
        assert float((statistics.matrix() - expected).norm() / expected.norm()) < 1e-4
        assert made.refusal[layer].shape == (32,)
        assert bool(torch.isfinite(made.refusal[layer]).all())


def test_its_rank_can_be_bounded(tiny_patient: Patient) -> None:
    made = compute(tiny_patient, TEXTS, rank=3)
    assert made.statistics[0].rank == 3


def test_the_model_imagines_the_same_conversations_for_the_same_seed(
    tiny_patient: Patient,
) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    once = imagine(tiny_patient, 3, seed=5)
    assert torch.equal(torch.rand(1), expected), "the caller's random numbers were used up"
    assert once == imagine(tiny_patient, 3, seed=5) != imagine(tiny_patient, 3, seed=6)
    assert 1 <= len(once) <= 3
    assert max(len(ids) for ids, _ in once) <= 256
    assert all(0 < first <= len(ids) for ids, first in once)


def test_a_saved_preparation_comes_back_for_its_own_model_only(tmp_path: Path) -> None:
    path = tmp_path / "kept.safetensors"
    save(preparation(), path, "a" * 64)
    found = load(path, "a" * 64)
    assert found is not None
    scale = max(float(s.s.max()) for s in found.statistics.values())
    assert _equal(found, preparation(), 2e-3 * scale)
    assert load(path, "b" * 64) is None
    assert load(tmp_path / "absent.safetensors", "a" * 64) is None


@pytest.mark.parametrize("content", [b"", b"not tensors", None], ids=["empty", "text", "cut"])
def test_a_broken_file_counts_as_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "kept.safetensors"
    save(preparation(), path, "a" * 64)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert load(path, "a" * 64) is None


def test_it_is_computed_once_for_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repair.preparation.IMAGINED", 2)
    patient = tiny()
    first = prepare(patient, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    assert patient.content_hash in file.name
    written = file.stat().st_mtime_ns
    again = prepare(tiny(), tmp_path / "cache")
    assert file.stat().st_mtime_ns == written
    scale = max(float(s.s.max()) for s in first.statistics.values())
    assert _equal(again, first, 2e-3 * scale)


def test_computing_it_changes_nothing_of_the_model(tiny_patient: Patient) -> None:
    before = {name: value.clone() for name, value in tiny_patient.model.state_dict().items()}
    compute(tiny_patient, TEXTS)
    assert all(torch.equal(tiny_patient.model.state_dict()[n], v) for n, v in before.items())
