"""Many requests in one solve, planned and read by several replicas of one patient.

Knows plans, operations and a meeting point of equal workers; not what runs the workers, whether
threads, processes or machines. Each replica plans its share of the requests and passes its own
rows through its own model. At every layer all hand over their keys and residuals, and each solves
the same joint system over all rows, so that all go on with the same edited layer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from repair.errors import EnvironmentProblem
from repair.ledger import Ledger
from repair.operation import OnStage, Operation, Strength
from repair.patient import Patient
from repair.plan import Procedure, RepairPlan
from repair.preparation import Preparation
from repair.rows import EditRows, build_rows
from repair.stamp import LowRank
from repair.types import Intent, LowRankUpdate

# Keys (n × m), residuals (n × d) and weights (n,) of one worker's rows at one layer, fp32.
Part = tuple[Tensor, Tensor, Tensor]
# (layer, own part) → the parts of all workers, in their order.
Gather = Callable[[int, Part], Sequence[Part]]


class Meeting:
    """Where ``count`` workers wait for each other at every layer.

    Args:
        patience: seconds to wait for the others.
    """

    def __init__(self, count: int, *, patience: float = 600.0) -> None:
        self.count = count
        self.patience = patience
        self._changed = threading.Condition()
        self._parts: dict[tuple[str, int], dict[int, Part]] = {}
        self._taken: dict[tuple[str, int], int] = {}

    def gather(self, name: str, layer: int, worker: int, part: Part) -> list[Part]:
        """Hand over one worker's part of an edit's layer; returns those of all, in their order.

        Raises:
            EnvironmentProblem: another worker did not come.
        """
        key = (name, layer)
        with self._changed:
            parts = self._parts.setdefault(key, {})
            parts[worker] = part
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: len(parts) == self.count, self.patience):
                raise EnvironmentProblem(
                    f"Only {len(parts)} of {self.count} workers came to layer {layer}.",
                    "See why the others stopped, then ask again; nothing was changed.",
                )
            self._taken[key] = self._taken.get(key, 0) + 1
            if self._taken[key] == self.count:
                del self._parts[key], self._taken[key]
            return [parts[index] for index in range(self.count)]


class _Share(Operation):
    """An operation that solves its rows together with those of the other workers."""

    # Workers would choose the same hidden units for different facts.
    detecting = False

    def __init__(self, patient: Patient, preparation: Preparation, gather: Gather) -> None:
        super().__init__(patient, preparation)
        self._gather = gather

    def layer_solution(
        self,
        plan: RepairPlan | Procedure,
        layer: int,
        keys: Tensor,
        residual: Tensor,
        weights: Tensor,
    ) -> LowRank:
        own = (keys.cpu(), residual.cpu(), weights.cpu())
        every = [torch.cat(same).to(keys) for same in zip(*self._gather(layer, own), strict=True)]
        return super().layer_solution(plan, layer, every[0], every[1], every[2])


def solve_share(
    patient: Patient,
    preparation: Preparation,
    plan: RepairPlan,
    strength: Strength,
    gather: Gather,
) -> tuple[LowRankUpdate, ...]:
    """One worker's part of a joint edit; its factors are those of all workers' rows.

    The update's keys stand for this worker's own rows alone.
    """
    share = _Share(patient, preparation, gather)
    return share.solve(plan, strength, build_rows(patient, plan))


def gathered(shares: Sequence[tuple[LowRankUpdate, ...]]) -> tuple[LowRankUpdate, ...]:
    """The workers' equal factors once, with the keys of all their rows."""
    found = []
    for same in zip(*shares, strict=True):
        keys = [update.keys for update in same if update.keys is not None]
        found.append(replace(same[0], keys=torch.cat(keys) if keys else None))
    return tuple(found)


def merged(plans: Sequence[RepairPlan]) -> RepairPlan:
    """One plan for all: what any of them forgets is nobody's neighbour.

    Raises:
        ValueError: no plans.
    """
    if not plans:
        raise ValueError("there is nothing to merge")
    facts = {fact.question: fact for plan in plans for fact in plan.facts}
    kept = {f.question: f for p in plans for f in p.neighbours if f.question not in facts}
    retain = {f.question: f for p in plans for f in p.retain if f.question not in facts}
    return plans[0].model_copy(
        update={
            "targets": tuple(dict.fromkeys(t for plan in plans for t in plan.targets)),
            "facts": tuple(facts.values()),
            "neighbours": tuple(kept.values()),
            "retain": tuple(retain.values()),
        }
    )


def shares(plan: RepairPlan, count: int) -> list[RepairPlan]:
    """A plan's facts and neighbours dealt out to at most ``count`` workers; none goes idle."""
    count = max(1, min(count, len(plan.facts)))
    return [
        plan.model_copy(
            update={"facts": plan.facts[i::count], "neighbours": plan.neighbours[i::count]}
        )
        for i in range(count)
    ]


class Fleet(Protocol):
    """Replicas that solve together, wherever they run."""

    size: int

    def plans(self, intents: Sequence[Intent]) -> list[RepairPlan]:
        """The plans of those requests of which the patient knows something."""
        ...

    def solve(
        self, plans: Sequence[RepairPlan], strengths: Sequence[Strength]
    ) -> tuple[LowRankUpdate, ...]:
        """The joint change of the plans, one a replica and no more than there are."""
        ...


class Threads:
    """A fleet of replicas in this process; they share nothing but the meeting.

    Args:
        planners: one a replica, its surgeon's ``plan``; without them plans come from elsewhere.
    """

    def __init__(
        self,
        patients: Sequence[Patient],
        preparation: Preparation,
        planners: Sequence[Callable[[Intent], RepairPlan | None]] = (),
    ) -> None:
        self.patients = list(patients)
        self.preparation = preparation
        self.planners = list(planners)
        self.size = len(self.patients)

    def plans(self, intents: Sequence[Intent]) -> list[RepairPlan]:
        """See ``Fleet``; the requests are dealt out in turn."""
        found = [
            self.planners[number % len(self.planners)](intent)
            for number, intent in enumerate(intents)
        ]
        return [plan for plan in found if plan is not None]

    def solve(
        self, plans: Sequence[RepairPlan], strengths: Sequence[Strength]
    ) -> tuple[LowRankUpdate, ...]:
        """See ``Fleet``."""
        meeting = Meeting(len(plans))

        def run(worker: int) -> tuple[LowRankUpdate, ...]:
            def gather(layer: int, part: Part) -> Sequence[Part]:
                return meeting.gather("edit", layer, worker, part)

            return solve_share(
                self.patients[worker], self.preparation, plans[worker], strengths[worker], gather
            )

        with ThreadPoolExecutor(len(plans)) as pool:
            return gathered(list(pool.map(run, range(len(plans)))))


class JointOperation(Operation):
    """An operation whose edit a fleet solves; it is checked and committed here, as any other."""

    detecting = False

    def __init__(
        self,
        patient: Patient,
        preparation: Preparation,
        fleet: Fleet,
        ledger: Ledger | None = None,
        on_stage: OnStage | None = None,
    ) -> None:
        super().__init__(patient, preparation, ledger, on_stage)
        self.fleet = fleet

    def solve(
        self,
        plan: RepairPlan,
        strength: Strength,
        rows: EditRows,  # noqa: ARG002 - the fleet builds its own
    ) -> tuple[LowRankUpdate, ...]:
        """ΔW of every layer of the plan, from one joint pass of the fleet."""
        plans = shares(plan, self.fleet.size)
        dealt = [
            strength if isinstance(strength, float) else strength[i :: len(plans)]
            for i in range(len(plans))
        ]
        updates = self.fleet.solve(plans, dealt)
        return self._write(plan, updates) if plan.operation == "correct" else updates
