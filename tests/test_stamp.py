"""The closed forms agree with each other, with their equations, and refuse bad numbers."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repair.errors import NotFinite
from repair.stamp import (
    LowRank,
    Statistics,
    compress,
    low_rank_of_moment,
    low_rank_statistics,
    paper_form,
    second_moment,
    stamp,
    stamp_low_rank,
)

RIDGE = 0.5
BETA = 30.0


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(rows: int, width: int, seed: int = 0) -> Tensor:
    """Keys whose energy falls over six orders of magnitude, as activations' does."""
    scales = torch.logspace(1, -2, width)
    basis: Tensor = torch.linalg.qr(random(width, width)).Q
    return (random(rows, width, seed=seed) * scales) @ basis.T


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """Rows fewer and more than columns, half precision, repeated and zero rows, weights."""
    n, m, d = draw(st.integers(1, 24)), draw(st.integers(1, 16)), draw(st.integers(1, 8))
    seed = draw(st.integers(0, 2**16))
    keys, residual = correlated(n, m, seed=seed), random(n, d, seed=seed + 1)
    for row in draw(st.lists(st.integers(0, n - 1), max_size=4)):
        keys[row] = keys[0]
    for row in draw(st.lists(st.integers(0, n - 1), max_size=2)):
        keys[row] = 0.0
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    weights = random(n, seed=seed + 2).abs() if draw(st.booleans()) else None
    if weights is not None and draw(st.booleans()):
        weights[draw(st.integers(0, n - 1))] = 0.0
    retain = correlated(draw(st.integers(1, 40)), m, seed=seed + 3)
    return {
        "keys": keys.to(dtype),
        "residual": residual.to(dtype),
        "weights": weights,
        "beta": draw(st.sampled_from([0.0, 1.0, 300.0])),
        "ridge": draw(st.sampled_from([1e-2, 0.5, 10.0])),
        "statistics": low_rank_statistics(retain, draw(st.integers(1, m))),
    }


@settings(max_examples=120, deadline=None)
@given(problems())
def test_both_forms_agree_and_satisfy_the_normal_equations(problem: dict[str, Any]) -> None:
    statistics: Statistics = problem.pop("statistics")
    low = stamp_low_rank(**problem, statistics=statistics)
    full = stamp(**problem, second_moment=statistics.matrix())
    keys, residual = problem["keys"].double(), problem["residual"].double()
    n, m = keys.shape
    weights = problem["weights"]
    moved = residual if weights is None else residual * weights.double()[:, None]
    rank = max(1, int(moved.any(1).sum()))
    assert low.b.shape == (residual.shape[1], rank)
    assert low.a.shape == (rank, m)
    assert low.rank == rank
    assert full.dtype == low.a.dtype == low.b.dtype == torch.float32
    # The factors are rounded to fp32 on their own, so the bound is on their product's scale.
    scale = float(low.b.norm() * low.a.norm()) * 1e-6
    assert float((low.matrix() - full).norm()) <= 1e-4 * float(full.norm()) + scale

    d = torch.ones(n).double() if weights is None else weights.double()
    system = keys.T @ (d[:, None] * keys) + problem["beta"] * statistics.matrix()
    system += problem["ridge"] * torch.eye(m).double()
    right = keys.T @ (d[:, None] * residual)
    size = float(system.norm() * full.double().norm() + right.norm()) + 1e-12
    assert float((system @ full.double().T - right).norm()) <= 1e-5 * size


@pytest.mark.parametrize("rows", [1, 6, 80])
def test_full_and_low_rank_agree_to_1e_4_for_the_same_second_moment(rows: int) -> None:
    keys, residual = correlated(rows, 48), random(rows, 12, seed=1)
    statistics = low_rank_statistics(correlated(200, 48, seed=2), 16)
    low = stamp_low_rank(keys, residual, statistics=statistics, beta=BETA, ridge=RIDGE)
    full = stamp(keys, residual, second_moment=statistics.matrix(), beta=BETA, ridge=RIDGE)
    assert torch.equal(low.matrix(), low.b @ low.a)
    assert torch.equal(low.b, residual.T)
    assert relative(low.matrix(), full) < 1e-4


def test_kept_rows_take_up_no_rank() -> None:
    keys, residual = random(6, 10), random(6, 4, seed=1)
    residual[2:] = 0.0
    statistics = low_rank_statistics(correlated(50, 10, seed=2), 4)
    low = stamp_low_rank(keys, residual, statistics=statistics, beta=BETA, ridge=RIDGE)
    full = stamp(keys, residual, second_moment=statistics.matrix(), beta=BETA, ridge=RIDGE)
    assert low.rank == 2
    assert relative(low.matrix(), full) < 1e-4


def test_the_rest_stands_for_the_directions_left_out() -> None:
    retain = correlated(400, 12, seed=3)
    statistics = low_rank_statistics(retain, 5)
    values = torch.linalg.eigvalsh(second_moment(retain)).flip(0)
    assert statistics.rest == pytest.approx(float(values[5:].mean()), rel=1e-6)
    assert float(statistics.matrix().trace()) == pytest.approx(float(values.sum()), rel=1e-5)


def test_a_worked_example() -> None:
    # One row k = (2, 0), R = 9, C = diag(1, 0), β = 4, λ = 1: ΔW = 2·9 / (4 + 4 + 1) = 2.
    keys, residual = torch.tensor([[2.0, 0.0]]), torch.tensor([[9.0]])
    kept = Statistics(u=torch.tensor([[1.0], [0.0]]), s=torch.tensor([1.0]))
    expected = torch.tensor([[2.0, 0.0]])
    low = stamp_low_rank(keys, residual, statistics=kept, beta=4.0, ridge=1.0)
    full = stamp(keys, residual, second_moment=kept.matrix(), beta=4.0, ridge=1.0)
    torch.testing.assert_close(low.matrix(), expected)
    torch.testing.assert_close(full, expected)


def test_without_ridge_and_kept_keys_the_mapping_is_met() -> None:
    keys, residual = random(5, 32), random(5, 7, seed=1)
    nothing = Statistics(u=torch.zeros(32, 0), s=torch.zeros(0))
    low = stamp_low_rank(keys, residual, statistics=nothing, beta=0.0, ridge=1e-7)
    full = stamp(keys, residual, second_moment=nothing.matrix(), beta=0.0, ridge=1e-7)
    assert relative(keys @ low.matrix().T, residual) < 1e-4
    assert relative(keys @ full.T, residual) < 1e-4


def test_repeated_rows_that_disagree_meet_in_the_middle() -> None:
    keys = random(1, 16).repeat(2, 1)
    residual = torch.tensor([[1.0], [3.0]])
    nothing = Statistics(u=torch.zeros(16, 0), s=torch.zeros(0))
    low = stamp_low_rank(keys, residual, statistics=nothing, beta=0.0, ridge=1e-6)
    torch.testing.assert_close(keys @ low.matrix().T, torch.full((2, 1), 2.0), rtol=1e-3, atol=0)


def test_a_row_weight_counts_as_that_many_rows() -> None:
    keys, residual = random(3, 8), random(3, 4, seed=1)
    statistics = low_rank_statistics(random(20, 8, seed=2), 4)
    times = torch.tensor([2, 0, 3])
    repeated = stamp_low_rank(
        keys.repeat_interleave(times, 0),
        residual.repeat_interleave(times, 0),
        statistics=statistics,
        beta=1.0,
        ridge=RIDGE,
    )
    weighted = stamp_low_rank(
        keys, residual, statistics=statistics, beta=1.0, ridge=RIDGE, weights=times.float()
    )
    torch.testing.assert_close(weighted.matrix(), repeated.matrix(), rtol=1e-4, atol=1e-6)


def test_beta_protects_what_is_kept() -> None:
    kept = correlated(30, 24, seed=3)
    statistics = low_rank_statistics(kept, 24)
    keys, residual = correlated(2, 24), random(2, 6, seed=1)
    moved = [
        float(
            (
                kept
                @ stamp_low_rank(keys, residual, statistics=statistics, beta=beta, ridge=0.01)
                .matrix()
                .T
            ).norm()
        )
        for beta in (0.0, 1.0, 100.0)
    ]
    assert moved[0] > moved[1] > moved[2]


def test_the_paper_form_shrinks_the_weight_and_the_change_form_does_not() -> None:
    x, weight = random(10, 32), random(6, 32, seed=1)
    outputs = x @ weight.T
    smaller = [float(paper_form(x, outputs, ridge).norm()) for ridge in (1.0, 10.0, 1e3, 1e6)]
    assert float(weight.norm()) > smaller[0] > smaller[1] > smaller[2] > smaller[3]
    assert smaller[3] < 1e-3 * float(weight.norm())
    statistics = low_rank_statistics(random(20, 32, seed=2), 8)
    change = stamp_low_rank(x, outputs - x @ weight.T, statistics=statistics, beta=1, ridge=RIDGE)
    assert not change.matrix().any()


@pytest.mark.parametrize("rows", [5, 50])
def test_the_paper_form_is_the_ridge_regression(rows: int) -> None:
    x, wanted = random(rows, 20), random(rows, 3, seed=1)
    expected = torch.linalg.solve(x.T @ x + 2.0 * torch.eye(20), x.T @ wanted).T
    torch.testing.assert_close(paper_form(x, wanted, 2.0), expected, rtol=1e-4, atol=1e-5)


class LargestOutput(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, Tensor):
                self.largest = max(self.largest, item.numel())
        return result


def test_low_rank_and_compress_never_form_a_square_of_the_width() -> None:
    n, m, d, r = 4, 60_000, 512, 8
    keys, residual, retain = random(n, m), random(n, d, seed=1), random(16, m, seed=2)
    with LargestOutput() as seen:  # type: ignore[no-untyped-call]
        statistics = low_rank_statistics(retain, r)
        low = stamp_low_rank(
            keys, residual, statistics=statistics, beta=1.0, ridge=RIDGE, weights=torch.ones(n)
        )
        small = compress(low.b, low.a, 2)
    assert seen.largest == 16 * m
    assert statistics.u.shape == (m, r)
    assert small.b.shape == (d, 2)
    assert small.a.shape == (2, m)


@pytest.mark.parametrize("shape", [(12, 5, 20), (6, 30, 9), (40, 8, 8)])
@pytest.mark.parametrize("rank", [1, 4, 64])
def test_compress_is_the_best_approximation_of_its_rank(
    shape: tuple[int, int, int], rank: int
) -> None:
    d, n, m = shape
    b, a = random(d, n), random(n, m, seed=1)
    found = compress(b, a, rank)
    u, s, vt = torch.linalg.svd(b @ a, full_matrices=False)
    assert found.rank == min(rank, d, n, m)
    best = (u[:, :rank] * s[:rank]) @ vt[:rank]
    torch.testing.assert_close(found.matrix(), best, rtol=1e-4, atol=1e-4)


def test_compress_of_repeated_rows_loses_nothing_at_their_rank() -> None:
    b, a = random(8, 6), random(3, 10, seed=1).repeat(2, 1)
    torch.testing.assert_close(compress(b, a, 3).matrix(), b @ a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [7, 10, 40])
def test_statistics_are_the_leading_part_of_the_second_moment(rows: int) -> None:
    keys = correlated(rows, 10)
    moment = second_moment(keys)
    torch.testing.assert_close(moment, keys.double().T @ keys.double() / rows)
    values, vectors = torch.linalg.eigh(moment)
    leading, rest = vectors[:, -4:], values[:-4].clamp(min=0).mean()
    expected = (leading * (values[-4:] - rest)) @ leading.T
    expected += rest * torch.eye(len(values), dtype=expected.dtype)
    for found in (low_rank_statistics(keys, 4), low_rank_of_moment(moment, 4)):
        assert found.u.dtype == found.s.dtype == torch.float32
        assert bool((found.s[:-1] >= found.s[1:]).all())
        torch.testing.assert_close(found.u.T @ found.u, torch.eye(4), rtol=0, atol=1e-5)
        assert relative(found.matrix(), expected) < 1e-5


def test_statistics_keep_only_directions_that_exist() -> None:
    keys = random(2, 12).repeat(3, 1)
    assert low_rank_statistics(keys, 5).rank == 2
    assert low_rank_statistics(keys.repeat(4, 1), 5).rank == 2
    empty = low_rank_statistics(torch.zeros(3, 12), 5)
    assert empty.rank == 0
    low = stamp_low_rank(keys, random(6, 2), statistics=empty, beta=BETA, ridge=RIDGE)
    assert isinstance(low, LowRank)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float) -> None:
    keys, residual = random(3, 8), random(3, 4, seed=1)
    statistics = low_rank_statistics(random(9, 8, seed=2), 4)
    moment = statistics.matrix()
    numbers: dict[str, Any] = {"beta": 1.0, "ridge": RIDGE}
    broken = keys.clone()
    broken[1, 2] = value
    for k, r in ((broken, residual), (keys, broken[:, :4])):
        with pytest.raises(NotFinite):
            stamp(k, r, second_moment=moment, **numbers)
        with pytest.raises(NotFinite):
            stamp_low_rank(k, r, statistics=statistics, **numbers)
    weights = torch.tensor([1.0, value, 1.0])
    with pytest.raises(NotFinite):
        stamp_low_rank(keys, residual, statistics=statistics, weights=weights, **numbers)
    with pytest.raises(NotFinite):
        low_rank_statistics(broken, 2)
    with pytest.raises(NotFinite):
        compress(broken.T, random(3, 8), 2)
    with pytest.raises(NotFinite):
        paper_form(broken, residual, RIDGE)


def test_an_indefinite_second_moment_is_refused() -> None:
    with pytest.raises(NotFinite, match="Raise the ridge"):
        stamp(random(2, 4), random(2, 3), second_moment=-torch.eye(4), beta=100.0, ridge=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"residual": torch.ones(2, 4)}, r"\(3, 8\).*\(2, 4\)"),
        ({"keys": torch.ones(3)}, r"keys.*\(3,\)"),
        ({"keys": torch.ones(0, 8), "residual": torch.ones(0, 4)}, r"\(0, 8\)"),
        ({"keys": torch.ones(3, 9)}, r"\(3, 9\)"),
        ({"weights": torch.ones(2)}, r"weights \(2,\)"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0])}, "negative"),
        ({"ridge": 0.0}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"beta": -1.0}, "beta"),
    ],
)
def test_bad_arguments_are_named(changed: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "keys": random(3, 8), "residual": random(3, 4), "beta": 1.0, "ridge": RIDGE,
    }  # fmt: skip
    statistics = low_rank_statistics(random(9, 8, seed=2), 4)
    with pytest.raises(ValueError, match=message):
        stamp(**good | changed, second_moment=statistics.matrix())
    with pytest.raises(ValueError, match=message):
        stamp_low_rank(**good | changed, statistics=statistics)


def test_bad_ranks_and_inner_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="rank"):
        low_rank_statistics(random(3, 4), 0)
    with pytest.raises(ValueError, match="rank"):
        compress(random(3, 4), random(4, 3), 0)
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3, 4\)"):
        compress(random(3, 4), random(3, 4), 1)
    with pytest.raises(ValueError, match="square"):
        low_rank_of_moment(random(3, 4), 1)


def test_the_module_loads_nothing_else_of_the_package() -> None:
    code = "import sys, repair.stamp; print(*sorted(m for m in sys.modules if 'repair.' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["repair.errors", "repair.stamp"]
