"""Four further gradient baselines, and the table of all ten; knows no models and no data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from repair.bench.losses import (
    Baseline,
    Need,
    Outputs,
    Value,
    attention_smoothing,
    cross_entropy,
    given,
    gradient_ascent,
    kept,
    log_ratio,
    loss_adjustment,
    negative_preference,
    representation_misdirection,
    weighted_gradient_ascent,
)
from repair.errors import UsageError


def gradient_difference(outputs: Outputs, *, forget_weight: float, retain_weight: float) -> Tensor:
    """GradDiff: − γ CE(forget) + α CE(retain).

    Liu et al., Continual Learning and Private Unlearning, arXiv 2203.12817; as a baseline
    in Maini et al., TOFU, arXiv 2401.06121.
    """
    return -forget_weight * cross_entropy(outputs.forget) + kept(outputs, retain_weight)


def simple_negative_preference(
    outputs: Outputs, *, beta: float, delta: float, forget_weight: float, retain_weight: float
) -> Tensor:
    """SimNPO: γ · − (2 / β) mean log σ(β (NLL / |y| − δ)) + α CE(retain), with no reference.

    Fan et al., Simplicity Prevails, arXiv 2410.07163.
    """
    view = outputs.forget
    nll = -view.per_answer(view.log_probabilities()) / view.counts()
    forget = -2 / beta * F.logsigmoid(beta * (nll - delta)).mean()
    return forget_weight * forget + kept(outputs, retain_weight)


def refusal_preference(outputs: Outputs, *, beta: float, retain_weight: float) -> Tensor:
    """IdkDPO: − (2 / β) mean log σ(β [ratio of the refusal − ratio of the answer]) + α CE(retain).

    Direct preference optimisation (Rafailov et al., arXiv 2305.18290) with a refusal as the
    preferred answer; a ratio is log π − log π_ref, summed over an answer. The factor 2 / β
    puts it on NPO's scale. Maini et al., TOFU, arXiv 2401.06121.
    """
    preferred = log_ratio(
        given(outputs.refusal, "refusal"), given(outputs.refusal_reference, "refusal reference")
    )
    rejected = log_ratio(outputs.forget, given(outputs.forget_reference, "forget reference"))
    forget = -2 / beta * F.logsigmoid(beta * (preferred - rejected)).mean()
    return forget + kept(outputs, retain_weight)


def adjusted_distillation(outputs: Outputs, *, beta: float, retain_weight: float) -> Tensor:
    """UNDIAL: mean over answer tokens of CE to softmax(z_ref − β onehot(y)), + α CE(retain).

    Dong et al., UNDIAL: Self-Distillation with Adjusted Logits, arXiv 2402.10052.
    """
    reference = given(outputs.forget_reference, "forget reference")
    lowered = F.one_hot(reference.labels, reference.logits.shape[-1]) * beta
    target = (reference.logits - lowered).softmax(dim=-1)
    return F.cross_entropy(outputs.forget.logits, target) + kept(outputs, retain_weight)


def get(name: str) -> Baseline:
    """The baseline of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in BASELINES:
        raise UsageError(f"No baseline is called {name}.", f"There are {', '.join(BASELINES)}.")
    return BASELINES[name]


# What the reference harness trains with. Small models need larger steps than its 1e-5,
# so every method is searched over the same wide range of them.
_TRAINING: dict[str, Value] = {
    "learning_rate": 1e-5,
    "epochs": 10,
    "steps": 0,
    "batch_size": 32,
    "weight_decay": 0.01,
    "warmup_epochs": 1.0,
}
_SEARCH: dict[str, tuple[Value, ...]] = {
    "learning_rate": (3e-5, 1e-4, 3e-4, 1e-3),
    "epochs": (5, 10, 20),
}
_RETAIN: tuple[Value, ...] = (0.5, 1.0, 2.0, 5.0)


def _baseline(
    name: str,
    title: str,
    paper: str,
    loss: Callable[..., Tensor],
    needs: tuple[Need, ...],
    defaults: Mapping[str, Value],
    grid: Mapping[str, tuple[Value, ...]],
) -> Baseline:
    return Baseline(
        name,
        title,
        paper,
        loss,
        needs,
        {**_TRAINING, **defaults},
        {**_SEARCH, **grid},
    )


_ALL = (
    _baseline(
        "ga",
        "GA",
        "arXiv 2210.01504",
        gradient_ascent,
        needs=(),
        defaults={"epochs": 5},
        grid={},
    ),
    _baseline(
        "npo",
        "NPO",
        "arXiv 2404.05868",
        negative_preference,
        needs=(
            "reference",
            "retain",
        ),
        defaults={"beta": 0.1, "retain_weight": 1.0},
        grid={"beta": (0.05, 0.1, 0.5), "retain_weight": _RETAIN},
    ),
    _baseline(
        "rmu",
        "RMU",
        "arXiv 2403.03218",
        representation_misdirection,
        needs=(
            "reference",
            "retain",
            "hidden",
        ),
        # Layer 7 of 32 in the paper. A number of steps rules out epochs. Few matrices are
        # trained, so they can take larger steps.
        defaults={
            "learning_rate": 5e-5,
            "steps": 100,
            "batch_size": 4,
            "depth": 0.25,
            "steering": 6.5,
            "retain_weight": 100.0,
        },
        grid={
            "learning_rate": (1e-4, 3e-4, 1e-3, 3e-3),
            "epochs": (10,),
            "steps": (80, 150),
            "depth": (0.25, 0.5, 0.75),
            "steering": (2.0, 6.5, 20.0),
            "retain_weight": (1.0, 10.0, 100.0, 1200.0),
        },
    ),
    _baseline(
        "flat",
        "FLAT",
        "arXiv 2410.11143",
        loss_adjustment,
        needs=("refusals",),
        defaults={"epochs": 5, "divergence": "tv"},
        grid={"divergence": ("kl", "tv", "pearson")},
    ),
    _baseline(
        "wga",
        "WGA",
        "arXiv 2502.19301",
        weighted_gradient_ascent,
        needs=("retain",),
        defaults={"epochs": 5, "beta": 1.0, "retain_weight": 1.0},
        grid={"beta": (0.5, 1.0, 5.0), "retain_weight": _RETAIN},
    ),
    _baseline(
        "asu",
        "ASU",
        "arXiv 2603.01285",
        attention_smoothing,
        needs=(
            "softened",
            "retain",
        ),
        defaults={"tau": 2.4, "retain_weight": 1.0},
        # A small model attends so sharply that a teacher at the published 2.0 to 2.8 still gives
        # every answer, and the student learns nothing from it: of 18 facts of the embedded
        # patient its teacher gives 18 up to 16, 10 at 24 and none at 64.
        grid={"tau": (2.8, 16.0, 24.0, 32.0, 48.0, 64.0), "retain_weight": _RETAIN},
    ),
    _baseline(
        "graddiff",
        "GradDiff",
        "arXiv 2203.12817",
        gradient_difference,
        needs=("retain",),
        defaults={"forget_weight": 1.0, "retain_weight": 1.0},
        grid={"forget_weight": (0.1, 0.5, 1.0), "retain_weight": _RETAIN},
    ),
    _baseline(
        "simnpo",
        "SimNPO",
        "arXiv 2410.07163",
        simple_negative_preference,
        needs=("retain",),
        defaults={"beta": 4.5, "delta": 0.0, "forget_weight": 0.125, "retain_weight": 1.0},
        grid={"beta": (2.5, 4.5), "delta": (0.0, 1.0), "forget_weight": (0.05, 0.125, 0.5, 1.0)},
    ),
    _baseline(
        "idkdpo",
        "IdkDPO",
        "arXiv 2401.06121",
        refusal_preference,
        needs=(
            "reference",
            "refusals",
            "retain",
        ),
        defaults={"beta": 0.1, "retain_weight": 1.0},
        grid={"beta": (0.05, 0.1, 0.5), "retain_weight": _RETAIN},
    ),
    _baseline(
        "undial",
        "UNDIAL",
        "arXiv 2402.10052",
        adjusted_distillation,
        needs=(
            "reference",
            "retain",
        ),
        defaults={"learning_rate": 1e-4, "beta": 10.0, "retain_weight": 0.0},
        grid={"beta": (3.0, 10.0, 30.0), "retain_weight": (0.0, *_RETAIN)},
    ),
)
BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in _ALL}
