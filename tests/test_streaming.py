"""The streamed second moment is the whole one, in little memory and a small file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from repair import preparation
from repair.detectors import Inputs
from repair.errors import NotFinite
from repair.preparation import LARGEST_FILE, RANK, Preparation, rank_for, save
from repair.stamp import Statistics, low_rank_of_moment, second_moment, stamp_low_rank
from repair.streaming import StreamedMoment
from tests.prepared import tiny


def keys(count: int = 2000, width: int = 300) -> torch.Tensor:
    """Keys with a spectrum that falls, as those of models do."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.arange(1, width + 1) ** -1.0
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    drawn = torch.randn(count, width, generator=generator)
    return (drawn * scales).matmul(turn)


def streamed(rows: torch.Tensor, rank: int, batches: int = 7) -> Statistics:
    moment = StreamedMoment(rows.shape[1], rank)
    for part in rows.chunk(batches):
        moment.add(part)
    return moment.statistics()


def test_it_is_nearly_the_best_of_its_rank() -> None:
    rows = keys()
    found, best = streamed(rows, 40), low_rank_of_moment(second_moment(rows), 40)
    torch.testing.assert_close(found.s, best.s, rtol=0.05, atol=1e-5)
    assert found.rest == pytest.approx(best.rest, rel=0.1)
    gram = found.u.T @ found.u
    torch.testing.assert_close(gram, torch.eye(40), rtol=0, atol=1e-5)
    # What lies in the leading directions of one lies in those of the other.
    assert float((found.u[:, :20].T @ best.u).norm()) == pytest.approx(20**0.5, rel=1e-3)


def test_all_of_a_small_rank_is_found_exactly() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(400, 12, generator=generator) @ torch.randn(12, 300, generator=generator)
    found, best = streamed(rows, 64), low_rank_of_moment(second_moment(rows), 64)
    assert found.rank == best.rank == 12
    torch.testing.assert_close(found.s, best.s, rtol=1e-5, atol=1e-5)
    assert found.rest == pytest.approx(0.0, abs=1e-6)


def test_an_edit_with_it_is_nearly_that_with_the_best() -> None:
    rows = keys()
    k, r = keys(30)[:20], torch.randn(20, 16, generator=torch.Generator().manual_seed(2))
    changes = [
        stamp_low_rank(k, r, statistics=known, beta=100.0, ridge=0.01).matrix()
        for known in (streamed(rows, 60), low_rank_of_moment(second_moment(rows), 60))
    ]
    assert float((changes[0] - changes[1]).norm() / changes[1].norm()) < 0.15


def test_the_order_of_batches_does_not_matter_and_no_square_matrix_is_made() -> None:
    rows = keys(600, 2000)
    moment = StreamedMoment(2000, 32)
    moment.add(rows)
    assert all(
        t.numel() <= 2000 * 160 for t in vars(moment).values() if isinstance(t, torch.Tensor)
    )
    again = streamed(rows.flip(0), 32, batches=3)
    torch.testing.assert_close(again.s, moment.statistics().s, rtol=1e-4, atol=1e-9)


def test_what_cannot_be_is_refused() -> None:
    moment = StreamedMoment(8, 4)
    with pytest.raises(ValueError, match="at least one key"):
        moment.statistics()
    with pytest.raises(ValueError, match="width 8"):
        moment.add(torch.ones(3, 9))
    moment.add(torch.full((3, 8), float("nan")))
    with pytest.raises(NotFinite):
        moment.statistics()


@pytest.mark.parametrize(
    ("layers", "d", "m", "rank"),
    [(6, 320, 1280, RANK), (24, 896, 4864, 360), (32, 4096, 14336, 83), (80, 8192, 28672, 16)],
    ids=["embedded", "qwen2.5-0.5b", "llama-3-8b", "llama-3-70b"],
)
def test_the_file_of_a_model_stays_small(layers: int, d: int, m: int, rank: int) -> None:
    outputs: list[Any] = [SimpleNamespace(in_features=m, out_features=d)] * layers
    assert rank_for(outputs) == rank
    assert layers * (rank * (2 * (m + d) + 8) + 4 * d) <= LARGEST_FILE


def test_the_file_of_one_8b_layer_has_the_size_that_was_computed(tmp_path: Path) -> None:
    s = torch.zeros(83)
    read = Inputs(Statistics(torch.zeros(4096, 83), s.clone(), 0.0), torch.zeros(4096))
    keys = Statistics(torch.zeros(14336, 83), s, 0.0)
    made = Preparation({0: keys}, {0: torch.zeros(4096)}, {0: read})
    save(made, tmp_path / "one.safetensors", "x")
    assert 32 * (tmp_path / "one.safetensors").stat().st_size <= LARGEST_FILE


def test_a_wide_model_is_prepared_by_streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    patient = tiny()
    ids = (range(5, 40), range(50, 90), range(100, 160))
    texts = [(list(text), 20) for text in ids]
    plain = preparation.compute(patient, texts, rank=16)
    monkeypatch.setattr(preparation, "WIDEST_MOMENT", 8)
    made = preparation.compute(patient, texts, rank=16)
    for layer, known in plain.statistics.items():
        torch.testing.assert_close(made.statistics[layer].s, known.s, rtol=1e-3, atol=1e-6)
        assert made.statistics[layer].rest == pytest.approx(known.rest, rel=1e-2)
