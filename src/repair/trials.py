"""Strengths that were tried for one plan: which is best, and what is told of it.

Knows budgets and measures. Neither solves nor asks anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from repair.budget import excess
from repair.plan import RepairPlan
from repair.types import Change, LowRankUpdate, Outcome, Status


@dataclass(frozen=True)
class Trial:
    """Strengths that were tried, one for each fact: the factors, the seconds they took, what
    they did. ``opening`` is each fact's likelihood to begin."""

    strengths: tuple[float, ...]
    updates: tuple[LowRankUpdate, ...]
    seconds: float
    measures: Mapping[str, Change] = field(default_factory=dict)
    kl: float = 0.0
    left: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    opening: tuple[float, ...] = (0.0,)

    @property
    def strength(self) -> float:
        """The highest."""
        return max(self.strengths)

    @property
    def kept_budget(self) -> bool:
        return not self.left and not self.costs

    @property
    def complaint(self) -> str:
        """What of the budget is broken, in one sentence."""
        return "; ".join((*self.left, *self.costs))


def preference(trial: Trial, plan: RepairPlan) -> tuple[bool, bool, float]:
    """The lower the better: within the budget, else forgotten at a cost, else nearest.

    Within the budget the one is better whose answer is less likely to begin a reply.
    """
    outside = excess(plan.budget, trial.measures, trial.kl)
    return not trial.kept_budget, bool(trial.left), outside or max(trial.opening)


def outcome_of(
    plan: RepairPlan,
    trial: Trial,
    passes: float,
    seconds: Mapping[str, float],
    *,
    accept: bool,
) -> Outcome:
    status: Status = "healed"
    reason = ""
    if trial.left:
        status, reason = "rolled_back", f"Rolled back: {trial.complaint}."
    elif trial.costs and not accept:
        # It would forget; whether that is worth its price is for a person to say.
        status, reason = "needs_confirmation", f"It would cost too much: {trial.complaint}."
    return Outcome(
        status=status,
        targets=plan.targets,
        method=plan.method,
        layers=plan.layers,
        rank=max(update.a.shape[0] for update in trial.updates),
        seconds=dict(seconds),
        measures=trial.measures,
        kl=trial.kl,
        forward_passes=passes,
        reason=reason,
    )
