"""The baselines' losses against values worked out by hand, and the direction of their steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from repair.bench.losses import (
    Outputs,
    View,
    attention_smoothing,
    cross_entropy,
    gradient_ascent,
    loss_adjustment,
    negative_preference,
    representation_misdirection,
    weighted_gradient_ascent,
)
from repair.bench.losses_more import (
    BASELINES,
    adjusted_distillation,
    get,
    gradient_difference,
    refusal_preference,
    simple_negative_preference,
)
from repair.errors import UsageError


def view(probabilities: list[list[float]], labels: list[int], *lengths: int) -> View:
    """A view whose softmax is exactly these probabilities."""
    logits = torch.tensor(probabilities).log()
    return View(logits, torch.tensor(labels), lengths or (len(labels),))


# Two answers, of two tokens and of one. Their tokens' probabilities are 1/2, 1/4 and 1/8.
FORGET = view([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5], [0.125, 0.375, 0.5]], [0, 1, 0], 2, 1)
# The same answers at 1/4, 1/4 and 1/4 in the reference.
REFERENCE = view([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], [0, 1, 0], 2, 1)
# One token at 1/2, so that CE(retain) is log 2.
RETAIN = view([[0.5, 0.25, 0.25]], [0])
# Refusals to both questions, at 1/2 and at 1/2 and 1/4; and at 1/4 and 1/2, 1/2.
REFUSAL = view([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], [0, 0, 0], 1, 2)
REFUSAL_REFERENCE = view([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], [0, 0, 0], 1, 2)
LOG2 = math.log(2)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_a_view_sums_each_answer_by_itself() -> None:
    sums = FORGET.per_answer(FORGET.log_probabilities())
    assert sums.tolist() == pytest.approx([-3 * LOG2, -3 * LOG2])
    assert FORGET.counts().tolist() == [2.0, 1.0]
    assert cross_entropy(FORGET).item() == pytest.approx(2 * LOG2)


def test_gradient_ascent_and_difference() -> None:
    assert gradient_ascent(Outputs(FORGET)).item() == pytest.approx(-2 * LOG2)
    outputs = Outputs(FORGET, retain=RETAIN)
    loss = gradient_difference(outputs, forget_weight=0.5, retain_weight=3.0)
    assert loss.item() == pytest.approx(-LOG2 + 3 * LOG2)


def test_npo_value() -> None:
    # The log ratios are −3 log 2 + 4 log 2 and −3 log 2 + 2 log 2.
    outputs = Outputs(FORGET, retain=RETAIN, forget_reference=REFERENCE)
    beta = 0.5
    expected = -2 / beta * (log_sigmoid(-beta * LOG2) + log_sigmoid(beta * LOG2)) / 2
    loss = negative_preference(outputs, beta=beta, retain_weight=2.0)
    assert loss.item() == pytest.approx(expected + 2 * LOG2)


def test_npo_is_two_log_two_over_beta_where_nothing_has_changed() -> None:
    outputs = Outputs(FORGET, forget_reference=FORGET)
    loss = negative_preference(outputs, beta=0.1, retain_weight=0.0)
    assert loss.item() == pytest.approx(20 * LOG2)


def gradient_of_npo(beta: float, gap: float) -> tuple[Tensor, Tensor]:
    """NPO's gradient at a log ratio of ``gap``, and that of the answer's log-probability."""
    logits = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    now = View(logits, torch.tensor([0]), (1,))
    log_p = now.log_probabilities().sum()
    reference = View(torch.zeros(1, 3), torch.tensor([0]), (1,))
    # Shift the reference so that the ratio is exactly the gap.
    wanted = (log_p.detach() - gap).exp()
    rest = (1 - wanted) / 2
    reference = replace(reference, logits=torch.stack([wanted, rest, rest]).log()[None])
    loss = negative_preference(
        Outputs(now, forget_reference=reference), beta=beta, retain_weight=0.0
    )
    (of_loss,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (of_log_p,) = torch.autograd.grad(log_p, logits)
    return of_loss, of_log_p


def test_npo_has_the_gradient_of_ascent_as_beta_falls_to_zero() -> None:
    of_loss, ascent = gradient_of_npo(beta=1e-4, gap=0.5)
    assert torch.allclose(of_loss, ascent, atol=1e-4)


@pytest.mark.parametrize(("beta", "gap"), [(0.1, 0.5), (1.0, 2.0), (10.0, -0.3)])
def test_npo_weighs_ascent_by_how_much_is_left(beta: float, gap: float) -> None:
    of_loss, ascent = gradient_of_npo(beta, gap)
    ratio = math.exp(beta * gap)
    assert torch.allclose(of_loss, 2 * ratio / (1 + ratio) * ascent, atol=1e-5)


def test_rmu_against_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    now, before, kept, kept_before = (
        torch.randn(shape, 4, generator=generator) for shape in (3, 3, 1, 1)
    )
    direction = torch.tensor([0.5, 0.5, 0.5, 0.5])
    outputs = Outputs(
        forget=replace(FORGET, hidden=now),
        retain=replace(RETAIN, hidden=kept),
        forget_reference=replace(REFERENCE, hidden=before),
        retain_reference=replace(RETAIN, hidden=kept_before),
        direction=direction,
    )
    norms = [math.sqrt(sum(x * x for x in row)) for row in before.tolist()]
    c = 6.5 * sum(norms) / 3
    moved = sum((x - c * 0.5) ** 2 for row in now.tolist() for x in row) / 12
    pairs = zip(kept.tolist()[0], kept_before.tolist()[0], strict=True)
    change = sum((x - y) ** 2 for x, y in pairs) / 4
    loss = representation_misdirection(outputs, steering=6.5, retain_weight=100.0)
    assert loss.item() == pytest.approx(moved + 100 * change, rel=1e-5)
    alone = representation_misdirection(outputs, steering=6.5, retain_weight=0.0)
    assert alone.item() == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        ("kl", [-0.5 + math.exp(0.375 - 1), -0.375 + math.exp(0.125 - 1)]),
        (
            "tv",
            [
                (math.tanh(0.375) - math.tanh(0.5)) / 2,
                (math.tanh(0.125) - math.tanh(0.375)) / 2,
            ],
        ),
        ("pearson", [-0.5 + 0.375 + 0.375**2 / 4, -0.375 + 0.125 + 0.125**2 / 4]),
    ],
)
def test_flat_by_hand(divergence: str, expected: list[float]) -> None:
    # The mean token probabilities are 3/8 and 1/8 of the answers, 1/2 and 3/8 of the refusals.
    loss = loss_adjustment(Outputs(FORGET, refusal=REFUSAL), divergence=divergence)
    assert loss.item() == pytest.approx(sum(expected) / 2)


def test_flat_knows_three_divergences() -> None:
    with pytest.raises(UsageError, match="No divergence is called hellinger"):
        loss_adjustment(Outputs(FORGET, refusal=REFUSAL), divergence="hellinger")


def test_wga_weighs_each_token_by_its_probability() -> None:
    expected = -(0.5 * LOG2 + 0.25 * 2 * LOG2 + 0.125 * 3 * LOG2) / 3
    loss = weighted_gradient_ascent(Outputs(FORGET), beta=1.0, retain_weight=0.0)
    assert loss.item() == pytest.approx(expected)
    plain = weighted_gradient_ascent(Outputs(FORGET), beta=0.0, retain_weight=0.0)
    assert plain.item() == pytest.approx(gradient_ascent(Outputs(FORGET)).item())


def test_no_gradient_goes_through_the_weight_of_wga() -> None:
    logits = torch.tensor([[1.0, 0.0]], requires_grad=True)
    now = View(logits, torch.tensor([0]), (1,))
    (ascent,) = torch.autograd.grad(gradient_ascent(Outputs(now)), logits)
    loss = weighted_gradient_ascent(Outputs(now), beta=2.0, retain_weight=0.0)
    (weighted,) = torch.autograd.grad(loss, logits)
    p = math.e / (1 + math.e)
    assert torch.allclose(weighted, p**2 * ascent)


def test_asu_is_the_divergence_from_the_teacher_per_answer_token() -> None:
    # Token by token KL(teacher ‖ now) of the probabilities above; the labels do not matter.
    first = 0.25 * math.log(0.25 / 0.5) + 0.5 * math.log(0.5 / 0.25)
    second = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5)
    third = 0.25 * math.log(0.25 / 0.125) + 0.25 * math.log(0.25 / 0.375)
    outputs = Outputs(FORGET, retain=RETAIN, forget_reference=REFERENCE)
    loss = attention_smoothing(outputs, retain_weight=0.5)
    assert loss.item() == pytest.approx((first + second + third) / 3 + 0.5 * LOG2, rel=1e-5)
    same = attention_smoothing(Outputs(FORGET, forget_reference=FORGET), retain_weight=0.0)
    assert same.item() == pytest.approx(0.0, abs=1e-7)


def test_simnpo_normalises_by_length() -> None:
    # NLL / |y| is 3/2 log 2 and 3 log 2.
    beta, delta = 4.5, 0.5
    forget = [log_sigmoid(beta * (nll - delta)) for nll in (1.5 * LOG2, 3 * LOG2)]
    expected = 0.125 * -2 / beta * sum(forget) / 2 + LOG2
    loss = simple_negative_preference(
        Outputs(FORGET, retain=RETAIN),
        beta=beta,
        delta=delta,
        forget_weight=0.125,
        retain_weight=1.0,
    )
    assert loss.item() == pytest.approx(expected)


def test_idkdpo_compares_the_gain_of_the_refusal_with_that_of_the_answer() -> None:
    # Gains of the refusals: log 2, and (−1 − 2 + 1 + 1) log 2; of the answers: log 2, − log 2.
    outputs = Outputs(
        FORGET,
        retain=RETAIN,
        refusal=REFUSAL,
        forget_reference=REFERENCE,
        refusal_reference=REFUSAL_REFERENCE,
    )
    beta = 0.1
    expected = -2 / beta * (log_sigmoid(0) + log_sigmoid(beta * 0)) / 2
    loss = refusal_preference(outputs, beta=beta, retain_weight=1.0)
    assert loss.item() == pytest.approx(expected + LOG2)
    swapped = replace(outputs, forget_reference=FORGET)
    expected = -2 / beta * (log_sigmoid(beta * LOG2) + log_sigmoid(-beta * LOG2)) / 2
    loss = refusal_preference(swapped, beta=beta, retain_weight=0.0)
    assert loss.item() == pytest.approx(expected)


def test_undial_lowers_the_logit_of_the_answer_in_its_target() -> None:
    # softmax(log p − log 2 onehot) halves the label's probability and normalises again.
    now = view([[0.5, 0.25, 0.25]], [0])
    reference = view([[0.5, 0.125, 0.375]], [0])
    target = [0.25 / 0.75, 0.125 / 0.75, 0.375 / 0.75]
    expected = -sum(q * math.log(p) for q, p in zip(target, (0.5, 0.25, 0.25), strict=True))
    outputs = Outputs(now, forget_reference=reference)
    loss = adjusted_distillation(outputs, beta=LOG2, retain_weight=0.0)
    assert loss.item() == pytest.approx(expected)


def start(labels: list[int]) -> View:
    """A view that ascent and descent can move: two tokens, uniform over three."""
    logits = torch.zeros(len(labels), 3, requires_grad=True)
    return View(logits, torch.tensor(labels), (len(labels),))


def after_a_step(moved: View, loss: Tensor) -> float:
    (gradient,) = torch.autograd.grad(loss, moved.logits, retain_graph=True)
    return -cross_entropy(replace(moved, logits=moved.logits - gradient)).item()


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "rmu"])
def test_a_step_makes_the_answer_less_likely_and_what_is_kept_more(name: str) -> None:
    baseline = BASELINES[name]
    forget, retain, refusal = start([0, 1]), start([2, 2]), start([1, 2])
    reference = view([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], [0, 1])
    if name == "asu":
        # A teacher that has forgotten; ASU forgets only as far as its teacher did.
        reference = view([[0.1, 0.45, 0.45], [0.45, 0.1, 0.45]], [0, 1])
    outputs = Outputs(
        forget,
        retain=retain,
        refusal=refusal,
        forget_reference=reference,
        refusal_reference=view([[0.25, 0.5, 0.25], [0.25, 0.25, 0.5]], [1, 2]),
    )
    own = {"beta", "delta", "divergence", "forget_weight", "retain_weight"}
    settings = {key: value for key, value in baseline.defaults.items() if key in own}
    if "retain_weight" in settings:
        settings["retain_weight"] = 1.0
    loss = baseline.loss(outputs, **settings)
    before = -math.log(3)
    assert after_a_step(forget, loss) < before
    if "retain" in baseline.needs:
        assert after_a_step(retain, loss) > before
    if "refusals" in baseline.needs:
        assert after_a_step(refusal, loss) > before


def test_what_a_loss_needs_and_does_not_get_is_named() -> None:
    with pytest.raises(ValueError, match="needs the forget reference"):
        negative_preference(Outputs(FORGET), beta=0.1, retain_weight=0.0)
    with pytest.raises(ValueError, match="needs the retain"):
        gradient_difference(Outputs(FORGET), forget_weight=1.0, retain_weight=1.0)


def test_the_table_holds_the_papers_six_and_four_more() -> None:
    six = ["ga", "npo", "rmu", "flat", "wga", "asu"]
    assert list(BASELINES) == [*six, "graddiff", "simnpo", "idkdpo", "undial"]
    for name, baseline in BASELINES.items():
        assert get(name) is baseline
        assert baseline.paper.startswith("arXiv ")
        assert baseline.paper.removeprefix("arXiv ") in str(baseline.loss.__doc__)
        assert baseline.grid.keys() <= baseline.defaults.keys()
        for point in ({key: value} for key, values in baseline.grid.items() for value in values):
            assert baseline.settings(point).keys() == baseline.defaults.keys()


def test_unknown_names_and_wrong_values_are_refused() -> None:
    with pytest.raises(UsageError, match="No baseline is called adam"):
        get("adam")
    with pytest.raises(UsageError, match="GA has no setting beta"):
        get("ga").settings({"beta": 0.1})
    with pytest.raises(UsageError, match="FLAT cannot take 1 as divergence"):
        get("flat").settings({"divergence": 1})
