"""One edit after the other, each sparing the earlier ones' rows, is one joint solution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repair import earlier
from repair.earlier import Protection
from repair.errors import NotFinite
from repair.stamp import Statistics, low_rank_statistics, sketch, stamp, stamp_low_rank
from repair.types import Edit, LowRankUpdate

M, D, BETA, RIDGE = 24, 7, 50.0, 0.1


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def base(rank: int = 6) -> Statistics:
    return low_rank_statistics(draw(200, M, seed=1) * torch.linspace(3, 0.1, M), rank)


def edit(identity: int, keys: Tensor, weights: Tensor, rank: int = 48) -> Edit:
    nothing = torch.zeros(D, 1), torch.zeros(1, M)
    return Edit(identity, (LowRankUpdate(0, *nothing, sketch(keys, weights, rank)),))


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_statistics_take_in_rows_exactly_while_there_is_room(rows: int) -> None:
    statistics, new = base(), draw(rows, M, seed=2)
    grown = statistics.plus(new, M)
    wanted = statistics.matrix() + new.double().T @ new.double()
    assert torch.allclose(grown.matrix(), wanted, atol=1e-5 * float(wanted.abs().max()))
    assert grown.rank <= M


def test_what_finds_no_room_keeps_its_weight_in_the_rest() -> None:
    statistics, new = base(), draw(40, M, seed=3)
    grown = statistics.plus(new, 8)
    wanted = statistics.matrix() + new.double().T @ new.double()
    assert grown.rank == 8
    assert float(grown.matrix().trace()) == pytest.approx(float(wanted.trace()), rel=1e-5)


def test_a_sketch_stands_for_its_weighted_rows() -> None:
    keys, weights = draw(30, M, seed=4), torch.rand(30)
    full = (keys * weights[:, None]).T @ keys
    made = sketch(keys, weights, M)
    assert torch.allclose(made.T @ made, full, atol=1e-4)
    assert sketch(keys, weights, 3).shape == (3, M)


@pytest.mark.parametrize("waiting", [0, 384])
def test_edits_one_after_the_other_come_to_the_joint_solution(
    waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For fixed keys, recursive least squares is least squares over all rows."""
    monkeypatch.setattr(earlier, "WAITING", waiting)
    first, second = draw(9, M, seed=5), draw(6, M, seed=6)
    want_first, want_second = draw(9, D, seed=7), draw(6, D, seed=8)
    weights = torch.rand(15) + 0.5
    protection = Protection({0: base()}, BETA)

    def solve(keys: Tensor, residual: Tensor, weight: Tensor, active: list[Edit]) -> Tensor:
        kept = protection.kept(active)[0]
        beside = len(kept.rows)
        return stamp_low_rank(
            torch.cat([keys, kept.rows]),
            torch.cat([residual, torch.zeros(beside, D)]),
            statistics=kept.statistics,
            beta=BETA,
            ridge=RIDGE,
            weights=torch.cat([weight, torch.ones(beside)]),
        ).matrix()

    one = solve(first, want_first, weights[:9], [])
    # The ridge pulls the total change toward 0 only once: the second solve starts from W + ΔW₁,
    # whose own pull has already been paid, so it enters as the first solve's normal equations.
    two = solve(second, want_second - second @ one.T, weights[9:], [edit(1, first, weights[:9])])
    joint = stamp(
        torch.cat([first, second]),
        torch.cat([want_first, want_second]),
        second_moment=base().matrix(),
        beta=BETA,
        ridge=RIDGE,
        weights=weights,
    )
    assert torch.allclose(one + two, joint, atol=1e-4)


def moment(protection: Protection, active: list[Edit]) -> Tensor:
    kept = protection.kept(active)[0]
    rows = kept.rows.double()
    return kept.statistics.matrix() + rows.T @ rows / BETA


@pytest.mark.parametrize("waiting", [0, 384])
def test_protection_follows_what_is_active(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier, "WAITING", waiting)
    protection = Protection({0: base()}, BETA)
    edits = [edit(n, draw(4, M, seed=10 + n), torch.ones(4)) for n in range(1, 4)]
    fresh = moment(Protection({0: base()}, BETA), [edits[0], edits[2]])
    moment(protection, edits[:2])
    everything = moment(protection, edits)
    assert float(everything.trace()) > float(fresh.trace())
    assert torch.allclose(moment(protection, [edits[0], edits[2]]), fresh, atol=1e-6)
    assert torch.equal(moment(protection, []), base().matrix())


def test_an_edit_without_keys_protects_nothing() -> None:
    foreign = Edit(1, (LowRankUpdate(0, torch.zeros(D, 1), torch.zeros(1, M)),))
    assert torch.equal(moment(Protection({0: base()}, BETA), [foreign]), base().matrix())


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        base().plus(draw(2, M + 1, seed=0), M)
    with pytest.raises(NotFinite):
        base().plus(torch.full((1, M), torch.nan), M)
