"""Healing: put back what many edits hurt, and go over what they left, without stored text.

One edit costs next to nothing; what a hundred cost adds up. The model without its edits still
knows everything: it is asked what it knows, and where the edited model answers otherwise, one more
closed-form change restores what the layers gave there before. What that brings back of a request
is redirected anew. Both are rows for what went wrong alone, so few rows reach far.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from repair import inventory
from repair.activations import capture, edit_in_one_pass
from repair.healings import KIND
from repair.inventory import Item
from repair.ledger import Ledger
from repair.operation import Operation
from repair.patient import Patient
from repair.plan import MAX_ANSWER_TOKENS, RepairPlan
from repair.rows import EditRows, build_rows, spoken_rows
from repair.stamp import LowRank, compress, sketch
from repair.surgeon import Surgeon
from repair.types import Budget, Edit, KnownFact, LowRankUpdate, Probe, next_id
from repair.verify import (
    ask,
    goes_on,
    lcs_recall,
    margins,
    prefix_probe,
    rouge_tokens,
    told,
)

# A reply that keeps less of the words than this is hurt.
WHOLE = 0.9
# From here on an answer is that of a request, in other words.
SAME = 0.8
# What is given of an answer to see whether the rest follows.
PREFIX_SHARE = 0.4
# An answer of which every token leads by so many nats is not looked at again in the same healing.
SAFE = 3.0
# Restored, then gone over, so often; the best of these states is kept.
ROUNDS = 3
# Rows of keys that a healing leaves behind for later edits to spare.
KEPT_RANK = 640
Solver = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Healing:
    """What a healing found and did: shares of answers hurt and of requests given away.

    Attributes:
        updates: its change of each layer; empty when nothing was hurt or given away.
        asked, requests: how many answers and requests were looked at.
        hurt, given_away: how many of them, before and after.
    """

    updates: tuple[LowRankUpdate, ...]
    asked: int
    requests: int
    hurt: tuple[int, int]
    given_away: tuple[int, int]

    @property
    def better(self) -> bool:
        """Whether it restored something and gives no more of the requests away."""
        fewer = sum(now for _, now in (self.hurt, self.given_away))
        return (
            bool(self.updates)
            and fewer < self.hurt[0] + self.given_away[0]
            and self.given_away[1] <= self.given_away[0]
        )


def commit(ledger: Ledger, healing: Healing, over: Sequence[int]) -> int:
    """Store a healing as an edit made over these, active; its id. Errors as in `Ledger.commit`."""
    return ledger.commit(
        kind=KIND,
        method="stamp-lr",
        redirect=1.0,
        updates=healing.updates,
        targets=(),
        probes=(),
        measures={
            "asked": healing.asked,
            "hurt": list(healing.hurt),
            "requests": healing.requests,
            "given_away": list(healing.given_away),
            "over": list(over),
        },
        tokenise=rouge_tokens,
    )


class Healer:
    """Heals one patient; keeps what it knows without edits for as long as this object lives.

    Args:
        operation: solves, and spares what the active edits fixed.
        surgeon: asks the patient.
        begun: questions that it begins for each kind to name what it knows.
    """

    def __init__(
        self, operation: Operation, surgeon: Surgeon, *, begun: int = inventory.BEGUN
    ) -> None:
        self.operation, self.surgeon = operation, surgeon
        self.patient: Patient = operation.patient
        self._begun, self._known = begun, list[Item]()
        self._asked: set[str] = set()
        self._leads: dict[Item, float] = {}

    def run(self, requests: Sequence[KnownFact], *, also: Sequence[KnownFact] = ()) -> Healing:
        """What would heal the patient under its active edits; it is left as it was.

        Args:
            requests: what has to stay forgotten, with the answers of the model without edits and
                with stand-ins.
            also: what was edited otherwise, as corrected: left as it is.
        """
        before = self.patient.active
        with self.patient.remembering():
            try:
                return self._healed(requests, [*requests, *also])
            finally:
                self.patient.apply(before)

    def _healed(self, requests: Sequence[KnownFact], edited: Sequence[KnownFact]) -> Healing:
        active = self.patient.active
        self._asked = {w for f in edited for w in (f.question, *f.rewordings, *f.probes)}
        items = _unedited(self._inventory(), edited, self._asked)
        self._leads = dict.fromkeys(items, 0.0)
        hurt, left = self._hurt(), self._given_away(requests)
        first = best = (len(hurt), len(left))
        made, kept = list[Edit](), 0
        for _ in range(ROUNDS):
            if hurt:
                self._push(made, active, *self._restoring(hurt))
                left = self._given_away(requests)
            if left:
                # The last word is had by what was asked for.
                self._push(made, active, *self._redirecting(left))
            hurt, left = self._hurt(), self._given_away(requests)
            now = (len(hurt), len(left))
            if now[1] > first[1] or sum(now) >= sum(best):
                continue
            best, kept = now, len(made)
            if not sum(now):
                break
        updates = _composed(made[:kept])
        return Healing(updates, len(items), len(requests), (first[0], best[0]), (first[1], best[1]))

    # Looking

    def _inventory(self) -> list[Item]:
        if not self._known:
            with self.patient.without_edits():
                self._known = inventory.take(self.surgeon, begun=self._begun)
        return self._known

    def _hurt(self) -> list[Item]:
        """The items that get another answer, among those near enough to another one before."""
        near = [item for item, lead in self._leads.items() if lead < SAFE]
        leads = map(min, margins(self.patient, [(item.question, item.answer) for item in near]))
        self._leads.update(zip(near, leads, strict=True))
        # Where the answer's tokens lead everywhere, it is the reply.
        other = [item for item in near if self._leads[item] <= 0]
        replies = inventory.answers(self.surgeon, [item.question for item in other])
        return [
            item
            for item, reply in zip(other, replies, strict=True)
            if lcs_recall(rouge_tokens(item.answer), rouge_tokens(reply)) < WHOLE
        ]

    def _given_away(self, requests: Sequence[KnownFact]) -> list[KnownFact]:
        """Those of which a wording, or the answer's first words, still draw more than allowed.

        Only where the answer would begin, or go on, is it asked for.
        """
        probes: list[Probe] = []
        owners: list[int] = []
        for owner, fact in enumerate(requests):
            for wording in (fact.question, *fact.rewordings, *fact.probes):
                given = prefix_probe(wording, fact.answer, PREFIX_SHARE)
                mine = [Probe("paraphrase", wording, fact.answer), *([given] if given else [])]
                probes += mine
                owners += [owner] * len(mine)
        drawn = [i for i, on in enumerate(goes_on(self.patient, probes)) if on]
        asked = [probes[i] for i in drawn]
        replies = ask(self.patient, asked, max_new_tokens=MAX_ANSWER_TOKENS)
        found = {
            owners[i]
            for i, reply in zip(drawn, replies, strict=True)
            if told(probes[i], reply) > Budget().prefix
        }
        return [requests[i] for i in sorted(found)]

    # Solving

    def _restoring(self, hurt: Sequence[Item]) -> tuple[EditRows, Solver]:
        """Rows of what was hurt, and the outputs that they had without edits."""
        weight = self.surgeon.procedure.neighbour_weight
        pairs = [(item.question, item.answer) for item in hurt]
        rows = spoken_rows(self.patient, pairs, weight=weight)
        with self.patient.without_edits():
            _, outputs = capture(self.patient, rows.rows, self._layers())
        return rows, lambda layer, _: outputs[layer]

    def _redirecting(self, left: Sequence[KnownFact]) -> tuple[EditRows, Solver]:
        """Rows of what is still given away, with the refusals that they are to become, and of
        what else is known of the same subjects, which stays."""
        how = self.surgeon.procedure
        with self.patient.without_edits():
            beside = self.surgeon.neighbours(left)
        plan = RepairPlan(
            operation="forget",
            targets=("healing",),
            facts=tuple(left),
            neighbours=tuple(f for f in beside if f.question not in self._asked),
            layers=self._layers(),
            strengths=(1.0,),
            forget_weight=how.forget_weight,
            neighbour_weight=how.neighbour_weight,
        )
        rows = build_rows(self.patient, plan)
        return rows, self.operation.target(rows, torch.ones(len(left)))

    def _push(
        self, made: list[Edit], active: Sequence[Edit], rows: EditRows, target: Solver
    ) -> None:
        """Solve for these rows on top of what was made so far, and put it in force."""
        how = replace(self.surgeon.procedure, rank=max(o.out_features for o in self.patient.layers))
        kept: dict[int, Tensor] = {}

        def solver(layer: int, keys: Tensor, residual: Tensor) -> LowRank:
            kept[layer] = sketch(keys, rows.weights, KEPT_RANK).cpu()
            return self.operation.layer_solution(how, layer, keys, residual, rows.weights)

        found = edit_in_one_pass(
            self.patient, rows.rows, self._layers(), target, solver, rows.whole
        )
        updates = tuple(replace(update, keys=kept[update.layer]) for update in found)
        made.append(Edit(next_id([*active, *made]), updates))
        self.patient.apply((*active, *made))

    def _layers(self) -> tuple[int, ...]:
        return self.surgeon.procedure.layers_of(len(self.patient.layers))


def _unedited(
    items: Sequence[Item], edited: Sequence[KnownFact], asked: Container[str]
) -> list[Item]:
    """The items that no request is about: neither in its words, ``asked``, nor in its answer."""
    answers: dict[str, list[list[str]]] = defaultdict(list)
    for fact in edited:
        answers[fact.subject.lower()].append(rouge_tokens(fact.answer))
    everything = [words for many in answers.values() for words in many]
    found = []
    for item in items:
        # A conversation names nobody, so that any request might be meant.
        others = answers.get(item.subject.lower(), []) if item.subject else everything
        said = rouge_tokens(item.answer)
        if item.question in asked or any(lcs_recall(words, said) >= SAME for words in others):
            continue
        found.append(item)
    return found


def _composed(made: Sequence[Edit]) -> tuple[LowRankUpdate, ...]:
    """Several edits as one of full rank at most."""
    layers = sorted({update.layer for edit in made for update in edit.updates})
    composed = []
    for layer in layers:
        mine = [update for edit in made for update in edit.updates if update.layer == layer]
        b, a = torch.cat([u.b for u in mine], 1), torch.cat([u.a for u in mine])
        low = compress(b, a, len(b))
        keys = torch.cat([u.keys for u in mine if u.keys is not None])
        kept = sketch(keys, torch.ones(len(keys)), KEPT_RANK)
        composed.append(LowRankUpdate(layer, low.b, low.a, kept))
    return tuple(composed)
