"""Who asks all nodes, adds up what they send and solves the joint edit, once.

Knows the model's statistics, not its weights, and no text. Layers are solved one after the other,
in one round each, for the rows of a later layer depend on the change of the earlier ones. A node
that goes missing or sends what cannot be believed is left out, by name, and the edit begins anew
with the rest: it is then the joint edit of the rest, and nothing of the other is in it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from repair.errors import BadMessage, EnvironmentProblem, OperationRefused
from repair.federated.masking import FEWEST, reveal
from repair.federated.orders import Agreement, Order
from repair.federated.statistics import (
    Factors,
    Moments,
    Terms,
    change_of_moments,
    checked_factors,
    checked_moments,
    joint_change,
)
from repair.federated.wire import Message
from repair.preparation import Preparation
from repair.stamp import LowRank

# A request is clipped to so many usual rows where noise is added.
CLIP_ROWS = 64.0
_LOST = "did not answer"


class Link(Protocol):
    """The way to the nodes, whatever carries the messages."""

    def ask(self, orders: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """One order a node; the replies of those that answered in time."""
        ...


@dataclass
class Report:
    """What came of one joint edit, without a text of anybody.

    ``nodes`` has of each: ``status`` (healed, rolled_back, …, or left), ``reason``, ``edit``.
    """

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    change: dict[int, LowRank] = field(default_factory=dict)
    strength: float = 0.0
    rounds: int = 0
    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    epsilon: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "nodes": self.nodes,
            "layers": sorted(self.change),
            "rank": max((low.rank for low in self.change.values()), default=0),
            "strength": self.strength,
            "rounds": self.rounds,
            "bytes": {"to_nodes": self.sent, "from_nodes": self.received},
            "seconds": round(self.seconds, 3),
            "epsilon": self.epsilon,
        }


class _Left(Exception):  # noqa: N818 - a signal to begin anew
    """At least one node is not in the group any more."""


class Coordinator:
    """Makes one joint edit.

    Args:
        link: to the nodes.
        agreement: how the edit is made.
        content_hash: names the model; nodes with another are left out.
        preparation: of this very model, for C.
        on_event: is told what happens, in plain words.
    """

    def __init__(
        self,
        link: Link,
        agreement: Agreement,
        *,
        content_hash: str,
        preparation: Preparation,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        self.link = link
        self.agreement = agreement
        self.model = content_hash
        self.preparation = preparation
        self.report = Report(epsilon=agreement.epsilon)
        self._tell = on_event or (lambda _: None)
        self._run = secrets.token_hex(8)
        self._public: dict[str, str] = {}
        self._state = ""

    def run(self, names: Sequence[str]) -> Report:
        """Join, solve, let all nodes check, and let them keep it.

        Raises:
            EnvironmentProblem: too few nodes are left.
            OperationRefused: no edit could be made of what they sent; nothing was changed.
        """
        start = time.perf_counter()
        self._join(names)
        best = self._best()
        self.report.strength, self.report.change = best
        for name, reply in self._ask("keep", strength=best[0], known=best[1]).items():
            status = str(reply.values.get("status"))
            self.report.nodes[name] = {"status": status, "edit": reply.values.get("edit")}
            self._tell(f"{name}: {status}")
        self.report.seconds = time.perf_counter() - start
        return self.report

    def _join(self, names: Sequence[str]) -> None:
        states = {}
        for name, reply in self._ask("join", to=names).items():
            public, state = str(reply.values.get("public")), str(reply.values.get("state"))
            if reply.values.get("model") != self.model:
                self._leave(name, "carries another model")
            else:
                self._public[name], states[name] = public, state
        # The edits that most carry are the ones to build on.
        found = list(states.values())
        self._state = max(found, key=found.count, default="")
        for name, state in states.items():
            if state != self._state:
                del self._public[name]
                self._leave(name, "carries other edits than the rest")
        self._enough()

    def _best(self) -> tuple[float, dict[int, LowRank]]:
        """The first strength that every node can keep, or the one that most can."""
        best: tuple[int, float, dict[int, LowRank]] | None = None
        private = self.agreement.privacy is not None
        strengths = list(self.agreement.strengths[:1] if private else self.agreement.strengths)
        while strengths:
            try:
                known = self._solve(strengths[0])
                if private or len(self.agreement.strengths) == 1:
                    # There is nothing to choose; every node checks before it keeps.
                    return strengths[0], known
                group = len(self._public)
                replies = self._ask("check", strength=strengths[0], known=known)
                if len(self._public) < group:
                    raise _Left
            except _Left:
                # What others' rows were in is of no use any more.
                best = None
                self._enough()
                continue
            good = sum(r.values.get("status") == "healed" for r in replies.values())
            self._tell(f"strength {strengths[0]:g}: {good} of {len(replies)} nodes within budget")
            if best is None or good > best[0]:
                best = (good, strengths[0], known)
            if good == len(replies):
                break
            del strengths[0]
        assert best is not None  # noqa: S101 - an agreement has at least one strength
        return best[1], best[2]

    def _solve(self, strength: float) -> dict[int, LowRank]:
        """ΔW of every layer, one round each."""
        known: dict[int, LowRank] = {}
        attempt = secrets.token_hex(8)
        for layer in self.agreement.layers:
            group = len(self._public)
            replies = self._ask(
                "statistic", strength=strength, known=known, layer=layer, attempt=attempt
            )
            parts = {}
            for name, reply in replies.items():
                try:
                    parts[name] = self._part(reply, layer)
                except BadMessage as error:
                    self._leave(name, error.message)
            if len(self._public) < group:
                if self.agreement.privacy is not None:
                    raise OperationRefused(
                        "A node left, and the privacy budget of the rest pays for no second try.",
                        "Nothing was changed; begin a new edit with the rest.",
                    )
                raise _Left
            known[layer] = self._joint(list(parts.values()), layer)
        return known

    def _part(self, reply: Message, layer: int) -> Factors | Moments:
        """A node's statistic at a layer, if it can be believed."""
        masked, noisy = self.agreement.masked, self.agreement.privacy is not None
        names = ("second", "cross") if masked or noisy else ("keys", "residual")
        if set(reply.tensors) != set(names):
            raise BadMessage(f"did not send {' and '.join(names)}")
        one, two = (reply.tensors[name] for name in names)
        terms = self._terms(layer)
        if not masked and not noisy:
            return checked_factors(Factors(one, two), terms)
        if not masked:
            return checked_moments(Moments(one, two), terms, noisy=True)
        shapes = (terms.width, terms.width), (terms.width, terms.outputs)
        if (one.shape, two.shape) != shapes or {one.dtype, two.dtype} != {torch.int64}:
            raise BadMessage("sent masked moments of another shape or type")
        return Moments(one, two)

    def _joint(self, parts: Sequence[Factors | Moments], layer: int) -> LowRank:
        how, kept = self.agreement, self.preparation.statistics[layer]
        numbers = {"beta": how.beta, "ridge": how.ridge, "rank": how.rank}
        noisy = how.privacy is not None
        if not how.masked and not noisy:
            whole = [part for part in parts if isinstance(part, Factors)]
            return joint_change(whole, kept, beta=how.beta, ridge=how.ridge, rank=how.rank)
        added = [part for part in parts if isinstance(part, Moments)]
        if how.masked:
            total = Moments(reveal([p.second for p in added]), reveal([p.cross for p in added]))
            try:
                checked_moments(total, self._terms(layer), noisy=noisy)
            except BadMessage as error:
                raise OperationRefused(
                    f"A node {error.message}; under masks nobody can tell which.",
                    "Nothing was changed; find it without --mask.",
                ) from error
        else:
            second = torch.stack([p.second for p in added]).sum(0)
            total = Moments(second, torch.stack([p.cross for p in added]).sum(0))
        return change_of_moments(
            total, kept, beta=how.beta, ridge=how.ridge, rank=int(numbers["rank"]), noisy=noisy
        )

    def _terms(self, layer: int) -> Terms:
        kept, refusal = self.preparation.statistics[layer], self.preparation.refusal[layer]
        width = kept.u.shape[0]
        energy = float(kept.s.double().sum()) + kept.rest * (width - kept.rank)
        return Terms(width, refusal.shape[0], energy, float(refusal.double().square().sum()))

    def _ask(
        self,
        kind: str,
        *,
        to: Sequence[str] | None = None,
        known: Mapping[int, LowRank] | None = None,
        layer: int | None = None,
        strength: float = 1.0,
        attempt: str = "",
    ) -> dict[str, Message]:
        """One order to every node; those that fail are left out."""
        clip = None
        if self.agreement.privacy is not None and layer is not None:
            terms = self._terms(layer)
            clip = ((CLIP_ROWS * terms.energy) ** 0.5, (CLIP_ROWS * terms.size) ** 0.5)
        order = Order.model_validate(
            {
                "kind": kind,
                "agreement": self.agreement,
                "label": f"{self._run} {self.report.rounds} {attempt} {layer}",
                "strength": strength,
                "layer": layer,
                "state": self._state,
                "roster": dict(self._public) if self.agreement.masked else {},
                "clip": clip,
            }
        )
        names = list(to if to is not None else self._public)
        data = order.message(dict(known or {})).pack()
        replies = self.link.ask(dict.fromkeys(names, data))
        self.report.rounds += 1
        self.report.sent += len(data) * len(names)
        found = {}
        for name in names:
            try:
                found[name] = self._read(replies.get(name))
            except BadMessage as error:
                self._leave(name, error.message)
        return found

    def _read(self, reply: bytes | None) -> Message:
        if reply is None:
            raise BadMessage(_LOST)
        self.report.received += len(reply)
        message = Message.unpack(reply)
        if "error" in message.values:
            raise BadMessage(str(message.values["error"])[:300])
        return message

    def _leave(self, name: str, reason: str) -> None:
        self._public.pop(name, None)
        self.report.nodes[name] = {"status": "left", "reason": reason}
        self._tell(f"{name} is left out: it {reason}")

    def _enough(self) -> None:
        fewest = FEWEST if self.agreement.masked else 1
        if len(self._public) < fewest:
            why = "; ".join(f"{n} {v['reason']}" for n, v in self.report.nodes.items())
            raise EnvironmentProblem(
                f"Too few nodes are left for a joint edit: {why or 'none came'}.",
                "Nothing was changed; see to them, then begin again.",
            )
