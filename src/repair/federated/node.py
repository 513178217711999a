"""One institution: its own texts, model and ledger, and what it says to a coordinator.

Knows its session; not the other nodes, nor how messages travel. It answers one order at a time
and never raises: what it cannot do it says in a sentence that repeats none of its texts. Between
orders it may be put away (``state``) and made again, as Flower does for every message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from repair.errors import BadMessage, NotFinite, OperationRefused, RepairError
from repair.federated.masking import Masks
from repair.federated.orders import Agreement, Order, read_order
from repair.federated.privacy import clipped, noised
from repair.federated.statistics import factors, moments
from repair.federated.wire import Message
from repair.joint import merged
from repair.operation import Operation, Strength
from repair.patient import Patient
from repair.plan import Procedure, RepairPlan
from repair.preparation import Preparation
from repair.rows import build_rows
from repair.session import Session
from repair.stamp import LowRank
from repair.types import Intent, LowRankUpdate

Known = Mapping[int, LowRank]
_PLANS = TypeAdapter(list[RepairPlan])


class Replay(Operation):
    """One pass over rows through layers that are solved already, up to the next one.

    ``found`` are keys (n × m), residual (n × d) and weights (n,) at that next layer.
    """

    # Hidden units that one node chose would mean something else to another.
    detecting = False

    def __init__(self, patient: Patient, preparation: Preparation, known: Known) -> None:
        super().__init__(patient, preparation)
        self._known = known
        self.found: tuple[Tensor, Tensor, Tensor] | None = None

    def layer_solution(
        self,
        plan: RepairPlan | Procedure,  # noqa: ARG002 - all layers are solved in one way
        layer: int,
        keys: Tensor,
        residual: Tensor,
        weights: Tensor,
    ) -> LowRank:
        known = self._known.get(layer)
        if known is not None:
            return LowRank(known.b.to(keys), known.a.to(keys))
        self.found = keys.cpu(), residual.cpu(), weights.cpu()
        return LowRank(keys.new_zeros(residual.shape[1], 1), keys.new_zeros(1, keys.shape[1]))


class _Given:
    """A fleet of one whose solve is known already; the session does all the rest."""

    size = 1

    def __init__(self, node: Node, plan: RepairPlan, known: Known) -> None:
        self._node, self._plan, self._known = node, plan, known

    def plans(self, intents: Sequence[Intent]) -> list[RepairPlan]:  # noqa: ARG002 - planned before
        return [self._plan]

    def solve(
        self, plans: Sequence[RepairPlan], strengths: Sequence[Strength]
    ) -> tuple[LowRankUpdate, ...]:
        patient, (plan,), (strength,) = self._node.session.patient, plans, strengths
        replay = Replay(patient, self._node.session.preparation, self._known)
        # The keys that the update keeps for later edits are those of this node's rows alone.
        return replay.solve(plan, strength, build_rows(patient, plan))


class Node:
    """A party to joint edits.

    Args:
        session: its model and ledger.
        texts: its requests, as people wrote them.
        group: a secret of the institutions that the coordinator does not have; see ``Masks``.
        accept: keep an edit that forgets also where it costs more than the budget allows.
        on_error: is told what went wrong, for the node's own log.
    """

    def __init__(
        self,
        session: Session,
        texts: Sequence[str],
        *,
        group: bytes = b"",
        accept: bool = False,
        on_error: Callable[[str], None] | None = None,
    ) -> None:
        self.session = session
        self.texts = list(texts)
        self.accept = accept
        self._on_error = on_error or (lambda _: None)
        self._group = group
        self._plans: list[RepairPlan] = []
        self._masks = Masks(group=group)
        self._seen: list[str] = []
        self._released = 0

    def state(self) -> dict[str, Any]:
        """What the node has to remember between orders, ready for JSON; for itself alone."""
        return {
            "plans": _PLANS.dump_python(self._plans, mode="json"),
            "private": self._masks.private.hex(),
            "seen": self._seen,
            "released": self._released,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._plans = _PLANS.validate_python(state["plans"])
        self._masks = Masks(bytes.fromhex(state["private"]), self._group)
        self._seen, self._released = list(state["seen"]), int(state["released"])

    def answer(self, data: bytes) -> bytes:
        """The reply to one order; an order that cannot be carried out changes nothing."""
        try:
            order, known = read_order(data)
            return self._answer(order, known).pack()
        except RepairError as error:
            self._on_error(str(error))
            # Only sentences of this package are sure to quote nothing.
            own = isinstance(error, BadMessage | NotFinite | OperationRefused)
            return Message({"error": error.message if own else f"stopped ({error.code})"}).pack()

    def _answer(self, order: Order, known: Known) -> Message:
        self._check(order, known)
        if order.kind == "join":
            return self._join(order.agreement)
        if not self._plans:
            raise BadMessage("was asked before it joined")
        if order.state != self._edits():
            raise BadMessage("has other edits than when it joined")
        if order.kind == "statistic":
            return self._statistic(order, known)
        keep = order.kind == "keep"
        plan = self._plan(merged(self._plans), order, order.agreement.layers)
        outcome = self.session.together(
            self.texts, _Given(self, plan, known), dry_run=not keep, accept=self.accept
        )
        if order.agreement.privacy is not None:
            # How well it went would tell about the requests without any noise.
            return Message({"status": "done"})
        return Message({"status": outcome.status, "edit": outcome.edit})

    def _check(self, order: Order, known: Known) -> None:
        patient, agreement = self.session.patient, order.agreement
        if agreement.layers[-1] >= len(patient.layers):
            raise BadMessage(f"has no layer {agreement.layers[-1]}")
        done = agreement.layers
        if order.kind == "statistic":
            if order.layer not in agreement.layers:
                raise BadMessage("was asked for a layer that was not agreed on")
            done = agreement.layers[: agreement.layers.index(order.layer)]
        if order.kind != "join" and tuple(known) != done:
            raise BadMessage("did not get the layers that were solved before")
        for layer, low in known.items():
            output = patient.layers[layer]
            _check_change(low, output.out_features, output.in_features)
        if order.label in self._seen:
            raise BadMessage("was asked the same thing twice")
        self._seen.append(order.label)

    def _join(self, agreement: Agreement) -> Message:
        self._released = 0
        plans = []
        with self.session.patient.remembering():
            for text in self.texts:
                read = self.session.plan(text)
                if read["policy"] == "refuse":
                    raise BadMessage("has a request that its policy refuses")
                if read["plan"] is not None:
                    # A correction is forgotten here; each institution writes its own values.
                    plans.append({**read["plan"], "operation": "forget"})
        self._plans = _PLANS.validate_python(plans)
        if not self._plans:
            raise BadMessage("has nothing to forget")
        return Message(
            {
                "model": self.session.patient.content_hash,
                "state": self._edits(),
                "public": self._masks.public if agreement.masked else "",
            }
        )

    def _statistic(self, order: Order, known: Known) -> Message:
        keys, residual, weights = self._rows(order, known)
        privacy = order.agreement.privacy
        if privacy is None and not order.agreement.masked:
            found = factors(keys, residual, weights)
            return Message({}, {"keys": found.keys, "residual": found.residual})
        total = moments(keys, residual, weights)
        if privacy is not None:
            privacy.check(self._released)
            self._released += 1
            assert order.clip is not None  # noqa: S101 - _rows checked it
            total = noised(total, privacy, keys=order.clip[0], outputs=order.clip[1])
            spent = {"epsilon": privacy.spent(self._released), "delta": privacy.delta}
            self.session.ledger.note("released", spent)
        second, cross = total.second, total.cross
        if order.agreement.masked:
            second = self._masks.hide(second, order.roster, f"{order.label} second")
            cross = self._masks.hide(cross, order.roster, f"{order.label} cross")
        return Message({}, {"second": second, "cross": cross})

    def _rows(self, order: Order, known: Known) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, residual and weights of all own rows at a layer, and of what earlier edits fixed.

        Where noise is added, every request is clipped by itself, and earlier rows stay out.
        """
        assert order.layer is not None  # noqa: S101 - _check made sure
        patient, private = self.session.patient, order.agreement.privacy is not None
        layers = (*known, order.layer)
        parts = []
        for unit in self._plans if private else [merged(self._plans)]:
            plan = self._plan(unit, order, layers)
            replay = Replay(patient, self.session.preparation, known)
            replay.solve(plan, order.strength, build_rows(patient, plan))
            assert replay.found is not None  # noqa: S101 - the last layer is never known
            keys, residual, weights = replay.found
            if private:
                if order.clip is None:
                    raise BadMessage("was not told how to clip")
                keys = clipped(keys, weights, order.clip[0])
                residual = clipped(residual, weights, order.clip[1])
            parts.append((keys, residual, weights))
        beside = [] if private else self._earlier(order.layer)
        width = parts[0][1].shape[1]
        parts += [
            (rows, rows.new_zeros(len(rows), width), torch.ones(len(rows))) for rows in beside
        ]
        keys, residual, weights = (torch.cat(same) for same in zip(*parts, strict=True))
        return keys, residual, weights

    def _earlier(self, layer: int) -> list[Tensor]:
        """The rows that this node's earlier edits fixed at a layer."""
        active = self.session.patient.active
        updates = [u for edit in active for u in edit.updates if u.layer == layer]
        return [u.keys.cpu() for u in updates if u.keys is not None]

    def _plan(self, plan: RepairPlan, order: Order, layers: Sequence[int]) -> RepairPlan:
        """A plan of one's own, carried out as all agreed."""
        how = order.agreement
        return plan.model_copy(
            update={
                "layers": tuple(layers),
                "strengths": (order.strength,),
                "beta": how.beta,
                "ridge": how.ridge,
                "rank": how.rank,
                "method": "stamp-lr",
            }
        )

    def _edits(self) -> str:
        """Names the edits that the model carries by their factors; empty for none."""
        digest, active = hashlib.sha256(), self.session.patient.active
        for edit in active:
            for update in edit.updates:
                digest.update(str(update.layer).encode())
                for tensor in (update.b, update.a):
                    digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest() if active else ""


def _check_change(low: LowRank, outputs: int, width: int) -> None:
    """Whether factors from the coordinator fit a layer.

    Raises:
        BadMessage: they do not, or hold NaN or infinity.
    """
    b, a = low.b, low.a
    fits = b.ndim == a.ndim == 2 and b.shape == (outputs, len(a)) and a.shape[1] == width
    if not fits or b.dtype != torch.float32 or a.dtype != torch.float32:
        raise BadMessage("got a change that does not fit its model")
    if not bool(torch.isfinite(b).all() and torch.isfinite(a).all()):
        raise BadMessage("got a change with NaN or infinity")
