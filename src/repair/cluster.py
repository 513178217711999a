"""A fleet of replicas on a Ray cluster, for many requests at once.

Knows Ray, and how a replica is made on a worker; not how edits are solved, checked or kept. Ray
is an extra (``pip install 'repair-unlearning[scale]'``) and imported only here, at the call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from repair.errors import EnvironmentProblem
from repair.joint import Meeting, Part, gathered, solve_share
from repair.operation import Strength
from repair.patient import Patient
from repair.plan import RepairPlan
from repair.preparation import Preparation
from repair.surgeon import Surgeon
from repair.types import Edit, Intent, LowRankUpdate


class Replica:
    """One worker's own copy of the patient, with the same edits on it."""

    def __init__(
        self,
        worker: int,
        model: str | None,
        how: dict[str, Any],
        preparation: Preparation,
        active: Sequence[Edit],
    ) -> None:
        self.worker = worker
        self.patient = Patient.load(model, **how)
        self.patient.apply(active)
        self.preparation = preparation
        self.surgeon = Surgeon(self.patient)

    def content_hash(self) -> str:
        """Which untouched weights it carries."""
        return self.patient.content_hash

    def plans(self, intents: Sequence[Intent]) -> list[RepairPlan]:
        """The plans of those requests of which the patient knows something."""
        with self.patient.remembering():
            found = [self.surgeon.plan(intent) for intent in intents]
        return [plan for plan in found if plan is not None]

    def solve(
        self, plan: RepairPlan, strength: Strength, meeting: Any, name: str
    ) -> tuple[LowRankUpdate, ...]:
        """Its share of one joint solve; ``meeting`` is the actor where all workers meet."""
        ray = _ray()

        def gather(layer: int, part: Part) -> Sequence[Part]:
            found: Sequence[Part] = ray.get(meeting.gather.remote(name, layer, self.worker, part))
            return found

        return solve_share(self.patient, self.preparation, plan, strength, gather)


class Cluster:
    """Replicas on the workers of a Ray cluster; a context manager that lets them go.

    Args:
        address: of the cluster, or ``local`` for one on this machine.
        size: how many replicas.
        model: what ``Patient.load`` takes; every worker must be able to read it.
        how: further arguments of ``Patient.load``.
        preparation: of this model, computed once and handed to all.
        active: the edits that the patient carries.
        resources: what one replica takes, as ``{"num_gpus": 1}``; see Ray's actors.

    Raises:
        EnvironmentProblem: Ray is missing, the cluster cannot be reached, or a worker has
            another model under that name.
    """

    def __init__(
        self,
        address: str,
        size: int,
        *,
        model: str | None = None,
        how: dict[str, Any] | None = None,
        preparation: Preparation,
        active: Sequence[Edit] = (),
        resources: dict[str, Any] | None = None,
    ) -> None:
        ray = self._ray = _ray()
        self.size = size
        self._asked = 0
        where = {} if address == "local" else {"address": address}
        try:
            ray.init(
                ignore_reinit_error=True, include_dashboard=False, log_to_driver=False, **where
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise EnvironmentProblem(
                f"No Ray cluster answers at {address}.", "Start one with `ray start --head`."
            ) from error
        shared = ray.put(preparation)
        actor = ray.remote(**(resources or {"num_cpus": 1}))(Replica)
        self._replicas = [
            actor.remote(worker, model, how or {}, shared, tuple(active)) for worker in range(size)
        ]
        # A thread for every worker that waits at a layer.
        meeting = ray.remote(num_cpus=0, max_concurrency=size)(Meeting)
        self._meetings = {count: meeting.remote(count) for count in range(1, size + 1)}
        if len(set(self._all([r.content_hash.remote() for r in self._replicas]))) > 1:
            raise EnvironmentProblem(
                "The workers do not carry the same model.", "Give all of them the same files."
            )

    def plans(self, intents: Sequence[Intent]) -> list[RepairPlan]:
        """The plans of all requests, dealt out to the replicas, in no fixed order."""
        calls = [
            replica.plans.remote(list(intents[i :: self.size]))
            for i, replica in enumerate(self._replicas)
        ]
        return [plan for found in self._all(calls) for plan in found]

    def solve(
        self, plans: Sequence[RepairPlan], strengths: Sequence[Strength]
    ) -> tuple[LowRankUpdate, ...]:
        """The joint change of the plans, one a replica and no more than there are."""
        self._asked += 1
        meeting = self._meetings[len(plans)]
        calls = [
            replica.solve.remote(plan, strength, meeting, f"edit {self._asked}")
            for replica, plan, strength in zip(self._replicas, plans, strengths, strict=False)
        ]
        return gathered(self._all(calls))

    def _all(self, calls: Sequence[Any]) -> list[Any]:
        try:
            found: list[Any] = self._ray.get(list(calls))
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            raise EnvironmentProblem(
                f"A worker of the cluster failed ({type(cause or error).__name__}).",
                "Nothing was changed; see the worker's log.",
            ) from error
        return found

    def close(self) -> None:
        """Let the replicas go."""
        for actor in (*self._replicas, *self._meetings.values()):
            self._ray.kill(actor)
        self._replicas = []

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise EnvironmentProblem(
            "Ray is not installed.", "Install it with `pip install 'repair-unlearning[scale]'`."
        ) from error
    return ray
