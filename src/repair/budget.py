"""What an operation may cost, held against what was measured of it.

Knows measures and budgets; neither patients nor how an edit is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repair.refusals import REFUSALS
from repair.types import Budget, Change, Probe
from repair.verify import recall, told

_REFUSALS = frozenset(REFUSALS)
_FORGOTTEN = frozenset({"exact", "paraphrase", "prefix"})


def by_kind(probes: Sequence[Probe], replies: Sequence[str]) -> dict[str, list[float]]:
    """Recalls of the replies, in the order of the probes, per kind of probe.

    Of what is to be forgotten only the words count that tell something, and a reply that is a
    refusal word for word gives nothing away.
    """
    values: dict[str, list[float]] = {}
    for probe, reply in zip(probes, replies, strict=True):
        value = told(probe, reply) if probe.kind in _FORGOTTEN else recall(probe, reply)
        refused = probe.kind in _FORGOTTEN and reply.strip() in _REFUSALS
        values.setdefault(probe.kind, []).append(0.0 if refused else value)
    return values


_NAMES = {
    "exact": "recall",
    "paraphrase": "paraphrase",
    "prefix": "prefix",
    "neighbour": "neighbours",
    "retain": "retain",
    "replacement": "replacement",
}


def changes(
    before: Mapping[str, list[float]], after: Mapping[str, list[float]]
) -> dict[str, Change]:
    return {
        _NAMES[kind]: Change(
            sum(values) / len(values), sum(after[kind]) / len(after[kind]), len(values)
        )
        for kind, values in before.items()
    }


def most(budget: Budget) -> dict[str, float]:
    """The highest recall of what is to be forgotten, by measure."""
    return {"recall": budget.forget, "paraphrase": budget.forget, "prefix": budget.prefix}


def forgotten(budget: Budget, measures: Mapping[str, Change]) -> list[str]:
    """What is still given away, in words; empty when all is forgotten."""
    broken = []
    for name, highest in most(budget).items():
        change = measures.get(name)
        if change is not None and change.after > highest:
            broken.append(f"{name} is still {change.after:.2f} (at most {highest:g})")
    spoken = measures.get("replacement")
    if spoken is not None and spoken.after < budget.replacement:
        least = budget.replacement
        broken.append(f"the given answer is spoken to {spoken.after:.2f} (at least {least:g})")
    return broken


def costs(budget: Budget, measures: Mapping[str, Change], kl: float) -> list[str]:
    """What it would cost beyond the budget, in words; empty when nothing."""
    broken = []
    for name, least in (("neighbours", budget.neighbours), ("retain", budget.retain)):
        change = measures.get(name)
        if change is not None and change.after < least * change.before:
            broken.append(
                f"{name} fell from {change.before:.2f} to {change.after:.2f}"
                f" (at least {least:g} of it)"
            )
    if kl > budget.kl:
        broken.append(f"the divergence is {kl:.2f} nats (at most {budget.kl:g})")
    return broken


def excess(budget: Budget, measures: Mapping[str, Change], kl: float) -> float:
    """How far measures are outside a budget, all parts added."""
    total = max(0.0, kl - budget.kl)
    for name, change in measures.items():
        if name in most(budget):
            total += max(0.0, change.after - most(budget)[name])
        elif name in ("neighbours", "retain"):
            least = budget.neighbours if name == "neighbours" else budget.retain
            total += max(0.0, least * change.before - change.after)
        elif name == "replacement":
            total += max(0.0, budget.replacement - change.after)
    return total
