"""Strengths that were tried for one plan: which is best, and what is told of it.

Knows plans, budgets and measures, and in which order to try. Neither solves nor asks anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from repair.budget import excess
from repair.plan import RepairPlan
from repair.rows import EditRows
from repair.types import Change, LowRankUpdate, Outcome, Status

# Where the answer's first token is likelier than this in any wording, unseen ones may still give
# it: the next strength is tried, too.
OPENING = 0.01
# How often the rows of what is still given away at the highest strength are made heavier.
TIMES = 2


@dataclass
class Clock:
    """Seconds of each named part of an operation."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


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
    def layers(self) -> tuple[int, ...]:
        """Those that are changed: a later one may find nothing left to do."""
        return tuple(sorted({update.layer for update in self.updates}))

    @property
    def kept_budget(self) -> bool:
        return not self.left and not self.costs

    @property
    def complaint(self) -> str:
        """What of the budget is broken, in one sentence."""
        return "; ".join((*self.left, *self.costs))


def search(
    plan: RepairPlan,
    rows: EditRows,
    attempt: Callable[[RepairPlan, tuple[float, ...], EditRows], Trial],
    check: Callable[[Trial], Trial],
) -> Trial:
    """The smallest strengths that forget within the budget, or else the best of all.

    Each fact has its own: the next one, and after the highest heavier rows, while its answer is
    still likely to begin. Until then not everything is asked, which takes longest. What is left
    then, complete rows take at the same strengths, or else the next strengths, or else heavier
    rows once more; only where no later trial keeps the budget is an earlier one gone back to.

    Args:
        attempt: solves with one strength for each fact, and says how likely each is to begin.
        check: asks everything, and measures what it cost.
    """
    steps, level, heavier = plan.strengths, [0] * len(plan.facts), 0
    checked: list[Trial] = []
    likely: list[Trial] = []
    while True:
        trial = attempt(plan, tuple(steps[i] for i in level), rows)
        more = [value > OPENING for value in trial.opening]
        last = all(i == len(steps) - 1 for i, up in zip(level, more, strict=True) if up)
        if any(more) and not (last and heavier):
            likely.append(trial)
        else:
            checked.append(check(trial))
            if checked[-1].kept_budget:
                return checked[-1]
            complete = rows.complete()
            if checked[-1].left and complete is not rows:
                rows = complete
                continue
            # Higher ones forget more, and never cost less.
            more = [bool(checked[-1].left)] * len(level)
        higher = [min(i + up, len(steps) - 1) for i, up in zip(level, more, strict=True)]
        if higher == level:
            if not any(more) or heavier == TIMES:
                break
            heavier, rows = heavier + 1, rows.heavier(more)
        level = higher
    for trial in reversed(likely):
        checked.append(check(trial))
        if checked[-1].kept_budget:
            return checked[-1]
    return min(checked, key=lambda trial: preference(trial, plan))


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
        layers=trial.layers,
        rank=max((update.a.shape[0] for update in trial.updates), default=0),
        seconds=dict(seconds),
        measures=trial.measures,
        kl=trial.kl,
        forward_passes=passes,
        reason=reason,
    )
