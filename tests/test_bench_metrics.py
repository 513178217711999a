"""Every metric against values worked out by hand, with the arithmetic beside them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from repair.bench.metrics import (
    auc,
    bootstrap_score,
    chosen,
    exact_memorization,
    extraction_strength,
    forget_quality,
    forget_truth,
    harmonic_mean,
    kept_truth,
    mean_score,
    min_k,
    min_k_plus_plus,
    normalized_probability,
    privleak,
    probability,
    rouge_l_f1,
    truth_ratio,
    vocabulary_moments,
    win_matrix,
)
from repair.errors import RepairError, UsageError

VALUES = st.lists(st.floats(-9, 9), min_size=1, max_size=9)


def logs(*chances: float) -> Tensor:
    return torch.tensor([math.log(chance) for chance in chances], dtype=torch.float64)


def hits(pattern: str) -> Tensor:
    return torch.tensor([letter == "x" for letter in pattern])


# Probability and truth ratio


@pytest.mark.parametrize(
    ("chances", "expected"),
    [
        ((0.5,), 0.5),
        ((1.0, 1.0), 1.0),
        # (1/2 · 1/8)^(1/2) = (1/16)^(1/2)
        ((0.5, 0.125), 0.25),
        # (1 · 1/27 · 1)^(1/3)
        ((1.0, 1 / 27, 1.0), 1 / 3),
    ],
)
def test_probability_is_the_geometric_mean(chances: tuple[float, ...], expected: float) -> None:
    assert probability(logs(*chances)) == pytest.approx(expected)


def test_probability_among_options() -> None:
    # 0.3 / (0.3 + 0.1 + 0.2) = 0.3 / 0.6
    assert normalized_probability(0.3, [0.1, 0.2]) == pytest.approx(0.5)
    # Four equal options share alike.
    assert normalized_probability(0.2, [0.2] * 3) == pytest.approx(0.25)
    assert normalized_probability(0.0, [0.0]) == 0.0


def test_truth_ratio_is_normalised_by_length() -> None:
    # P_correct = (1/2 · 1/8)^(1/2) = 1/4; P_wrong = 1/16 for the one token: R = 1/4.
    assert truth_ratio([logs(0.5, 0.125)], [logs(1 / 16)]) == pytest.approx(0.25)


def test_truth_ratio_takes_the_geometric_mean_of_several_answers() -> None:
    # Wrong: (1/4 · 1/16)^(1/2) = 1/8. Correct: (1/2 · 1/8)^(1/2) = 1/4. R = 1/2.
    ratio = truth_ratio([logs(1 / 2), logs(1 / 8)], [logs(1 / 4), logs(1 / 16)])
    assert ratio == pytest.approx(1 / 2)


def test_truth_ratio_holds_where_probabilities_vanish() -> None:
    # e^−800 is 0 in a double, the ratio e^(−800 + 799) is not.
    wrong, right = torch.tensor([-800.0]), torch.tensor([-799.0])
    assert truth_ratio([right], [wrong]) == pytest.approx(math.exp(-1))
    assert math.isfinite(truth_ratio([torch.tensor([-2000.0])], [torch.tensor([0.0])]))


@pytest.mark.parametrize(
    ("ratio", "forget", "kept"),
    [
        (1.0, 1.0, 0.0),
        (0.25, 0.25, 0.75),
        # 1/4 = 0.25; max(0, 1 − 4) = 0
        (4.0, 0.25, 0.0),
        (0.0, 0.0, 1.0),
    ],
)
def test_truth_ratio_as_scores(ratio: float, forget: float, kept: float) -> None:
    assert forget_truth(ratio) == pytest.approx(forget)
    assert kept_truth(ratio) == pytest.approx(kept)


def test_forget_quality_of_samples_that_do_not_overlap() -> None:
    # D = 1, which of the C(6, 3) = 20 orders of the pooled six only the two extreme ones have.
    assert forget_quality([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)
    # C(8, 4) = 70 orders.
    assert forget_quality([5, 6, 7, 8], [4, 1, 2, 3]) == pytest.approx(2 / 70)


def test_forget_quality_of_half_a_step() -> None:
    # 1 3 | 2 4 in the order a b a b: D = 1/2. Of the six orders of a a b b, aabb and bbaa have
    # D = 1, the others (abab, baba, abba, baab) 1/2; so P(D ≥ 1/2) = 6/6.
    assert forget_quality([1, 3], [2, 4]) == pytest.approx(1.0)
    # a a b a b b: a leads by 2 of 3, D = 2/3. By reflection C(6, 1) = 6 of the 20 orders have a
    # lead by 2 somewhere, 6 have b, and none both (that takes 2 + 4 + 2 steps of 6).
    assert forget_quality([1, 2, 4], [3, 5, 6]) == pytest.approx(12 / 20)


def test_forget_quality_of_equal_samples_is_one() -> None:
    assert forget_quality([0.1, 0.5, 0.9], [0.9, 0.1, 0.5]) == pytest.approx(1.0)
    assert forget_quality([0.5] * 4, [0.5] * 4) == pytest.approx(1.0)
    assert forget_quality([0.5], [0.1]) == pytest.approx(1.0)


def test_model_utility_is_a_harmonic_mean() -> None:
    # 3 / (1/1 + 1/(1/2) + 1/(1/3)) = 3 / 6
    assert harmonic_mean([1, 1 / 2, 1 / 3]) == pytest.approx(0.5)
    assert harmonic_mean([0.4] * 9) == pytest.approx(0.4)
    assert harmonic_mean([0.9, 0.0, 0.9]) == 0.0
    with pytest.raises(UsageError, match="at least 0"):
        harmonic_mean([0.5, -0.1])


# Memorisation


@pytest.mark.parametrize(
    ("pattern", "exact", "extracted"),
    [
        ("x", 1.0, 1.0),
        ("o", 0.0, 0.0),
        ("xxxx", 1.0, 1.0),
        ("oooo", 0.0, 0.0),
        # k = 1: after the first token all are right. 1 − 1/4.
        ("oxxx", 0.75, 0.75),
        # The miss at the third of five must be given, so k = 3: 1 − 3/5.
        ("xxoxx", 0.8, 0.4),
        # The last token is missed, so all must be given: k = 4, though 3 of 4 are right.
        ("xxxo", 0.75, 0.0),
    ],
)
def test_memorisation(pattern: str, exact: float, extracted: float) -> None:
    assert exact_memorization(hits(pattern)) == pytest.approx(exact)
    assert extraction_strength(hits(pattern)) == pytest.approx(extracted)


# Generation


@pytest.mark.parametrize(
    ("answer", "reply", "expected"),
    [
        ("by the old harbour", "by the old harbour", 1.0),
        ("by the old harbour", "", 0.0),
        ("", "", 0.0),
        ("red", "blue", 0.0),
        # Common subsequence "a b": recall 2/4, precision 2/2: 2 · 1 · 0.5 / 1.5.
        ("a b c d", "a b", 2 / 3),
        # "a c d": recall 3/4, precision 3/6: 2 · 0.375 / 1.25.
        ("a b c d", "x a y c d z", 0.6),
    ],
)
def test_rouge_l_f1(answer: str, reply: str, expected: float) -> None:
    assert rouge_l_f1(answer, reply) == pytest.approx(expected)


# Membership


def test_min_k_takes_the_lowest_values() -> None:
    values = torch.tensor([-1.0, -5.0, -2.0, -4.0, -3.0])
    # int(5 · 0.4) = 2 values: (−5 − 4) / 2
    assert min_k(values) == pytest.approx(-4.5)
    # int(5 · 0.5) = 2, rounded down; all five: −15 / 5
    assert min_k(values, 0.5) == pytest.approx(-4.5)
    assert min_k(values, 1.0) == pytest.approx(-3.0)
    # One token, and a share of less than one token, still take one.
    assert min_k(torch.tensor([-2.0])) == -2.0
    assert min_k(values, 0.0) == -5.0
    with pytest.raises(UsageError, match="share"):
        min_k(values, 1.5)


def test_moments_of_the_vocabulary() -> None:
    # p = (1/2, 1/4, 1/4): μ = −(1/2 + 2/4 + 2/4) ln 2 = −1.5 ln 2;
    # σ² = 1/2 (0.5 ln 2)² + 1/2 (0.5 ln 2)² = (0.5 ln 2)².
    logits = logs(0.5, 0.25, 0.25).unsqueeze(0) + 7
    mean, deviation = vocabulary_moments(logits)
    assert mean.item() == pytest.approx(-1.5 * math.log(2))
    assert deviation.item() == pytest.approx(0.5 * math.log(2))


def test_moments_without_spread_divide_by_the_least_variance() -> None:
    mean, deviation = vocabulary_moments(torch.zeros(1, 4))
    assert mean.item() == pytest.approx(-math.log(4))
    assert deviation.item() == pytest.approx(1e-3)


def test_min_k_plus_plus_standardises_each_token() -> None:
    logprobs = torch.tensor([-1.0, -4.0, -2.0])
    mean, deviation = torch.tensor([-2.0, -3.0, -2.0]), torch.tensor([0.5, 2.0, 1.0])
    # (1/0.5, −1/2, 0/1) = (2, −0.5, 0); int(3 · 0.4) = 1 value.
    assert min_k_plus_plus(logprobs, mean, deviation) == pytest.approx(-0.5)
    # int(3 · 0.7) = 2 values: (−0.5 + 0) / 2
    assert min_k_plus_plus(logprobs, mean, deviation, 0.7) == pytest.approx(-0.25)


def test_area_under_the_curve_counts_pairs() -> None:
    # 3 > 2, 3 > 1, 1 < 2, 1 = 1: (1 + 1 + 0 + 1/2) / 4
    assert auc([3, 1], [2, 1]) == pytest.approx(2.5 / 4)
    assert win_matrix([3, 1], [2, 1]).tolist() == [[1, 1], [0, 0.5]]
    assert auc([2, 3], [0, 1]) == 1.0
    assert auc([0, 1], [2, 3]) == 0.0
    assert auc([5, 5, 5], [5]) == 0.5


@given(VALUES, VALUES)
def test_area_under_the_curve_is_that_of_scikit_learn(seen: list[float], new: list[float]) -> None:
    from sklearn.metrics import roc_auc_score

    expected = roc_auc_score([1] * len(seen) + [0] * len(new), [*seen, *new])
    assert auc(seen, new) == pytest.approx(expected)


def test_privleak() -> None:
    # s = 1 − 0.6 = 0.4, s_ref = 0.5: 100 (0.4 − 0.5) / 0.5
    assert privleak(0.6) == pytest.approx(-20)
    # Still recognised every time: s = 0.
    assert privleak(1.0, 0.5) == pytest.approx(-100)
    # Less familiar than what was never seen: s = 1.
    assert privleak(0.0, 0.5) == pytest.approx(100)
    # s = 0.9, s_ref = 0.6: 100 · 0.3 / 0.6
    assert privleak(0.1, 0.4) == pytest.approx(50)
    assert privleak(0.4, 0.4) == 0.0
    with pytest.raises(UsageError, match="oracle"):
        privleak(0.5, 1.0)
    with pytest.raises(UsageError, match="from 0 to 1"):
        privleak(1.2)


# Multiple choice


def test_the_likeliest_letter_is_chosen() -> None:
    assert chosen([-3.0, -1.0, -2.0, -9.0]) == 1
    assert chosen([-1.0]) == 0
    assert chosen([-2.0, -1.0, -1.0, -1.0]) == 1


# Intervals


def test_a_mean_has_wilsons_interval() -> None:
    # n = 4, p = 1/2, z² = 3.8415: centre 1/2, reach √(z² (1/16 + z²/64)) / (1 + z²/4) = 0.35.
    score = mean_score([0.0, 1.0, 0.0, 1.0])
    assert score["mean"] == 0.5
    assert (score["low"], score["high"]) == pytest.approx((0.15, 0.85), abs=0.001)
    assert score["n"] == 4


def test_a_bootstrap_finds_the_spread_of_a_mean() -> None:
    values = torch.arange(100.0)
    score = bootstrap_score(lambda i: float(values[i].mean()), [100], resamples=2000, seed=1)
    # Standard deviation of 0..99 is 28.87, of the mean of 100 of them 2.887: ± 5.66.
    assert score["mean"] == pytest.approx(49.5)
    assert score["low"] == pytest.approx(49.5 - 5.66, abs=0.6)
    assert score["high"] == pytest.approx(49.5 + 5.66, abs=0.6)
    assert score["n"] == 100


def test_a_bootstrap_is_the_same_for_the_same_seed() -> None:
    def draw(seed: int) -> object:
        values = torch.arange(50.0)
        return bootstrap_score(
            lambda i, j: float(values[i].mean() - values[j].std()), (9, 50), resamples=50, seed=seed
        )

    state = torch.random.get_rng_state()
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_bootstrap_interval_holds_its_value() -> None:
    # Resampled samples are never spread as alike as the samples themselves.
    ratios = [i / 40 for i in range(40)]
    score = bootstrap_score(
        lambda a, b: forget_quality([ratios[i] for i in a], [ratios[i] for i in b]),
        (40, 40),
        resamples=100,
    )
    assert score["mean"] == score["high"] == pytest.approx(1.0)
    assert score["low"] < 1.0


# Nothing to measure

NONE = torch.empty(0)
EMPTY: list[Callable[[], object]] = [
    lambda: probability(NONE),
    lambda: normalized_probability(0.5, []),
    lambda: truth_ratio([logs(0.5)], []),
    lambda: truth_ratio([], [logs(0.5)]),
    lambda: truth_ratio([NONE], [logs(0.5)]),
    lambda: forget_quality([], [1.0]),
    lambda: forget_quality([1.0], []),
    lambda: harmonic_mean([]),
    lambda: exact_memorization(NONE),
    lambda: extraction_strength(NONE),
    lambda: min_k(NONE),
    lambda: min_k_plus_plus(NONE, NONE, NONE),
    lambda: auc([], [1.0]),
    lambda: auc([1.0], []),
    lambda: chosen([]),
    lambda: mean_score([]),
    lambda: bootstrap_score(lambda: 0.0, []),
    lambda: bootstrap_score(lambda i: 0.0, [0]),
    lambda: bootstrap_score(lambda i: 0.0, [1], resamples=0),
]


@pytest.mark.parametrize("measure", EMPTY)
def test_nothing_is_not_measured(measure: Callable[[], object]) -> None:
    with pytest.raises(RepairError, match="at least one"):
        measure()
