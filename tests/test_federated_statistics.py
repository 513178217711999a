"""What nodes send each other: statistics, masks and noise, by their formulas."""

from __future__ import annotations

import pytest
import torch

from repair.errors import BadMessage, NotFinite, OperationRefused, UsageError
from repair.federated.masking import Masks, encode, reveal
from repair.federated.privacy import Privacy, clipped, noised
from repair.federated.statistics import (
    Moments,
    Terms,
    change_of_moments,
    checked_moments,
    factors,
    joint_change,
    moments,
)
from repair.stamp import low_rank_statistics, stamp
from tests.federation import problem


def test_the_accounting_is_that_of_the_gaussian_mechanism() -> None:
    one, many = Privacy(1.0, 1e-5, 1), Privacy(1.0, 1e-5, 9)
    assert many.sigma == pytest.approx(3 * one.sigma)
    assert one.spent(1) == many.spent(9) == pytest.approx(1.0)
    assert many.spent(3) < 0.7
    # By hand: ρ = (√(ln 1e5 + 1) − √(ln 1e5))² = 0.02083, σ = 1/√ρ.
    assert one.sigma == pytest.approx(0.020831**-0.5, rel=1e-3)
    with pytest.raises(OperationRefused, match="spent"):
        many.check(9)
    for epsilon, delta in ((0.0, 1e-5), (float("nan"), 1e-5), (1.0, 0.0), (1.0, 1.0)):
        with pytest.raises(UsageError, match="no privacy budget"):
            Privacy(epsilon, delta, 1)


def test_clipped_requests_move_a_statistic_by_no_more_than_agreed() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = 50 * torch.randn(7, 6, generator=generator)
    residual = torch.randn(7, 4, generator=generator)
    weights = torch.rand(7, generator=generator) * 5
    k, r = clipped(keys, weights, 2.0), clipped(residual, weights, 0.5)
    one = moments(k, r, weights)
    assert float(one.second.norm()) <= 4.0 + 1e-9
    assert float(one.cross.norm()) <= 1.0 + 1e-9
    assert torch.equal(clipped(residual, weights, 1e9), residual)
    zero = Moments(torch.zeros(80, 80).double(), torch.zeros(80, 60).double())
    privacy = Privacy(2.0, 1e-6, 3)
    noise = noised(zero, privacy, keys=2.0, outputs=0.5)
    assert torch.equal(noise.second, noise.second.T)
    assert float(noise.second.triu().square().sum() / (80 * 81 / 2)) ** 0.5 == pytest.approx(
        4 * privacy.sigma, rel=0.1
    )
    assert float(noise.cross.square().mean()) ** 0.5 == pytest.approx(privacy.sigma, rel=0.1)
    again = noised(zero, privacy, keys=2.0, outputs=0.5)
    assert not torch.equal(noise.second, again.second)


@pytest.mark.parametrize("sizes", [(3, 4), (9, 20), (12, 1, 30)])
def test_both_statistics_give_the_solution_over_all_rows(sizes: tuple[int, ...]) -> None:
    parts = [problem(n, seed=n) for n in sizes]
    kept = low_rank_statistics(problem(40, seed=99)[0], 6)
    keys, residual, weights = (torch.cat(same) for same in zip(*parts, strict=True))
    wanted = stamp(
        keys, residual, second_moment=kept.matrix(), weights=weights, beta=3.0, ridge=0.01
    )
    for part in parts:
        assert len(factors(*part).keys) <= 12
    found = joint_change([factors(*part) for part in parts], kept, beta=3.0, ridge=0.01, rank=99)
    torch.testing.assert_close(found.matrix(), wanted, rtol=1e-5, atol=1e-6)
    sums = [moments(*part) for part in parts]
    total = Moments(sum(s.second for s in sums), sum(s.cross for s in sums))  # type: ignore[arg-type]
    found = change_of_moments(total, kept, beta=3.0, ridge=0.01, rank=99)
    torch.testing.assert_close(found.matrix(), wanted, rtol=1e-5, atol=1e-6)


def test_moments_that_cannot_be_are_refused() -> None:
    terms = Terms(12, 5, 12.0, 5.0)
    good = moments(*problem(4))
    assert checked_moments(good, terms) is good
    bad = good.second.clone()
    bad[0, 1] += 1.0
    for second, cross, sentence in (
        (good.second[:, 1:], good.cross, "sent moments"),
        (bad, good.cross, "not symmetric"),
        (-good.second, good.cross, "not positive semidefinite"),
        (good.second * 1e9, good.cross, "out of all proportion"),
        (good.second, good.cross * 1e9, "out of all proportion"),
        (good.second * float("inf"), good.cross, "NaN or infinity"),
        (good.second.float(), good.cross, "torch.float32"),
    ):
        with pytest.raises(BadMessage, match=sentence):
            checked_moments(Moments(second, cross), terms)


def test_masks_cancel_and_only_for_those_who_share_the_group() -> None:
    everyone = [Masks(group=b"ours") for _ in range(4)]
    roster = {str(i): masks.public for i, masks in enumerate(everyone)}
    numbers = [torch.randn(3, 5).double() * 10**i for i in range(4)]
    hidden = [m.hide(x, roster, "one") for m, x in zip(everyone, numbers, strict=True)]
    torch.testing.assert_close(reveal(hidden), torch.stack(numbers).sum(0), rtol=0, atol=1e-7)
    again = everyone[0].hide(numbers[0], roster, "two")
    assert not torch.equal(again, hidden[0]), "a second message has other masks"
    outside = Masks(everyone[0].private, group=b"")
    assert not torch.equal(outside.hide(numbers[0], roster, "one"), hidden[0])
    assert Masks(everyone[1].private).public == everyone[1].public
    for huge in (1e18, float("nan"), float("inf")):
        with pytest.raises(NotFinite, match="fixed point"):
            encode(torch.tensor([huge]), 3)
