"""Carry out a plan: measure, edit in one pass, check, commit or leave no trace.

Knows the order of an operation and its budget. Does not know how a plan came about, and does
not speak to anybody: stages go to a callback.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from repair.activations import Target, edit_in_one_pass
from repair.allotment import Allotment
from repair.budget import by_kind, changes, costs, forgotten
from repair.detectors import Units
from repair.earlier import Kept, Protection
from repair.errors import NotFinite
from repair.guesses import guessed
from repair.ledger import Ledger
from repair.patient import Patient
from repair.pictures import has_picture
from repair.plan import MAX_ANSWER_TOKENS, Procedure, RepairPlan
from repair.preparation import Preparation
from repair.rows import EditRows, build_rows, build_write_rows
from repair.stamp import (
    LowRank,
    compress,
    paper_form,
    sketch,
    stamp,
    stamp_low_rank,
)
from repair.trials import Clock, Trial, outcome_of, search
from repair.types import Edit, KnownFact, LowRankUpdate, Outcome, Probe, Stage, next_id
from repair.verify import (
    Reference,
    ask,
    mean_kl,
    opening_probabilities,
    prefix_probe,
    reference_logits,
    rouge_tokens,
)
from repair.writing import write

OnStage = Callable[[Stage], None]
# Of a whole plan, or of each of its facts.
Strength = float | Sequence[float]
# How many of the retain sample's answers the divergence is measured on.
KL_ANSWERS = 16
# How many rows of keys an edit leaves behind for later ones to spare, for each of its facts.
KEPT_RANK = 48
PREFIX_SHARE = 0.4
PACED = 32  # sequences that are timed to tell what a plain forward pass takes
# How much further rows are sent of which only the MLP's part is matched.
OUTWEIGH = 1.5


def probes_of(plan: RepairPlan) -> list[Probe]:
    """Everything an operation asks before and after: forgotten, neighbours, retain sample."""
    probes: list[Probe] = []
    for fact in plan.facts:
        probes.append(Probe("exact", fact.question, fact.answer))
        others = fact.probes or fact.rewordings
        probes += [Probe("paraphrase", question, fact.answer) for question in others]
        prefix = prefix_probe(fact.question, fact.answer, PREFIX_SHARE)
        if prefix is not None:
            probes.append(prefix)
        if fact.replacement:
            questions = (fact.question, *others)
            probes += [Probe("replacement", question, fact.replacement) for question in questions]
    probes += [Probe("neighbour", f.question, f.answer) for f in plan.neighbours]
    probes += [Probe("retain", f.question, f.answer) for f in plan.retain]
    return probes


class Operation:
    """Carries out plans on one patient.

    ``detecting``: whether facts may get hidden units of their own.

    Args:
        patient: its weights change when an edit is committed, and only then.
        preparation: statistics of this very model.
        ledger: where a committed edit is kept; None keeps it in the patient alone.
        on_stage: is told what happens.
    """

    detecting = True

    def __init__(
        self,
        patient: Patient,
        preparation: Preparation,
        ledger: Ledger | None = None,
        on_stage: OnStage | None = None,
    ) -> None:
        self.patient = patient
        self.preparation = preparation
        self.ledger = ledger
        self.on_stage = on_stage or (lambda _: None)
        self.allotment = Allotment(patient, preparation, ledger)
        self._protections: dict[float, Protection] = {}
        # Seconds that a plain forward pass takes a token, padding included.
        self._pace: float | None = None

    def run(
        self,
        plan: RepairPlan,
        clock: Clock | None = None,
        *,
        keep: bool = True,
        strength: float = 1.0,
        accept: bool = False,
    ) -> Outcome:
        """The whole operation for one plan; on any failure the patient is as before.

        Args:
            plan: what to do.
            clock: takes the seconds of each part.
            keep: False measures what would come of it and commits nothing.
            strength: the share of the found change to put in force, from 0 to 1.
            accept: put in force also what forgets and costs more than the budget allows.
        """
        clock = clock or Clock()
        with clock.time("verify"):
            probes = probes_of(plan)
            before = self._before(probes)
            pairs = [(f.question, f.answer) for f in (plan.retain or plan.neighbours)]
            reference = reference_logits(self.patient, pairs[:KL_ANSWERS]) if pairs else None
        with clock.time("capture"):
            rows = self.rows(plan)

        def check(trial: Trial) -> Trial:
            return self._check(plan, trial, probes, before, reference, clock)

        def attempt(plan: RepairPlan, strengths: tuple[float, ...], rows: EditRows) -> Trial:
            return self._try(plan, strengths, rows, clock)

        best = search(plan, rows, attempt, check)
        passes = self._forward_passes(rows, best)
        good = best.kept_budget or (accept and not best.left)
        if strength < 1.0 and good:
            weaker = replace(best, updates=Edit(0, best.updates).at(strength).updates)
            seen = check(weaker)
            best = replace(best, measures=seen.measures, kl=seen.kl)
        outcome = outcome_of(plan, best, passes, clock.seconds, accept=accept)
        outcome = replace(outcome, strength=strength)
        if not keep:
            return outcome
        return self._commit(plan, best, outcome) if good else self._refuse(outcome)

    def rows(self, plan: RepairPlan) -> EditRows:
        """The plan's rows: for hidden units of its facts where there is room for them."""
        # The paper's own form, for comparison, changes the output map alone.
        may = self.detecting and plan.method != "paper"
        room = may and self.allotment.room(plan.layers, len(plan.facts))
        left_out = guessed(self.patient, plan.facts) if room else ()
        return build_rows(self.patient, plan, throughout=room, guessed=left_out)

    def solve(
        self, plan: RepairPlan, strength: Strength, rows: EditRows
    ) -> tuple[LowRankUpdate, ...]:
        """ΔW of every layer of the plan, from one forward pass over the rows."""
        each = [strength] * len(plan.facts) if isinstance(strength, float) else strength
        target = self.target(rows, torch.tensor(each))
        dealt = self.allotment.deal(plan.layers, rows) if rows.throughout else {}
        few = rows.throughout and self.allotment.plenty(plan.layers)
        rank = KEPT_RANK * max(1, len(plan.facts))
        kept: dict[int, Tensor] = {}
        chosen: dict[int, Units] = {}

        def solver(layer: int, keys: Tensor, residual: Tensor) -> LowRank:
            kept[layer] = sketch(keys, rows.weights, rank).cpu()
            if not rows.throughout:
                return self.layer_solution(plan, layer, keys, residual, rows.weights)
            found = LowRank(residual.T[:, :0], keys[:0])
            if layer in chosen:
                found = chosen[layer].solution(keys, residual, rows.weights)
            # All columns are solved for, too, in the last attempt, and where no unit was found; but
            # by the first edits alone: seven that did, of 968, cost half of what those cost.
            lost = layer == max(plan.layers) and not chosen
            others = (rows.moved if lost else rows.closely).to(keys.device)
            if few and bool(others.any()):
                left = (residual - keys @ found.a.T @ found.b.T) * others[:, None]
                how = plan.model_copy(update={"rank": max(1, plan.rank - found.rank)})
                more = self.layer_solution(how, layer, keys, left, rows.weights)
                found = LowRank(torch.cat([found.b, more.b], 1), torch.cat([found.a, more.a]))
            return found

        def detect(layer: int, x: Tensor) -> Units | None:
            found = self.allotment.units(dealt[layer], layer, x, rows.kept)
            if found is not None:
                chosen[layer] = found
            return found

        found = edit_in_one_pass(
            self.patient,
            rows.rows,
            plan.layers,
            target,
            solver,
            rows.whole,
            detect if rows.throughout else None,
        )
        updates = tuple(
            replace(update, keys=kept[update.layer]) if update.part == "output" else update
            for update in found
        )
        return self._write(plan, updates) if plan.operation == "correct" else updates

    def target(self, rows: EditRows, strengths: Tensor) -> Target:
        """Where the rows are sent: towards their references, each fact's as far as it says.

        What the MLP alone adds has to outweigh what the stream holds already.
        """
        each = strengths[rows.facts.clamp(min=0)] * torch.where(rows.whole, 1.0, OUTWEIGH)
        # Rows that stay have themselves as references, so any strength leaves them.
        share = torch.where(rows.facts < 0, 1.0, each)[:, None]

        def target(layer: int, outputs: Tensor) -> Tensor:
            wanted = outputs[rows.reference.clamp(min=0).to(outputs.device)]
            refusal = self.preparation.refusal[layer].to(outputs)
            wanted[rows.reference.to(outputs.device) < 0] = refusal
            return outputs + share.to(outputs) * (wanted - outputs)

        return target

    def _write(
        self, plan: RepairPlan, updates: tuple[LowRankUpdate, ...]
    ) -> tuple[LowRankUpdate, ...]:
        """The same updates, with the answer to give written into the last layer."""
        last = len(self.patient.layers) - 1
        rows = build_write_rows(self.patient, plan)
        with self.patient.trial(updates):
            keys, change = write(self.patient, rows.rows, rows.tokens)
        low = self.layer_solution(plan, last, keys, change, rows.weights)
        own = [update for update in updates if update.place == (last, "output")]
        b = torch.cat([*(update.b for update in own), low.b.cpu()], dim=1)
        a = torch.cat([*(update.a for update in own), low.a.cpu()], dim=0)
        both = [update.keys for update in own if update.keys is not None]
        rank = KEPT_RANK * max(1, len(plan.facts))
        kept = torch.cat([*both, sketch(keys, rows.weights, rank).cpu()])
        others = (update for update in updates if update.place != (last, "output"))
        return (*others, LowRankUpdate(last, b, a, kept))

    def layer_solution(
        self,
        plan: RepairPlan | Procedure,
        layer: int,
        keys: Tensor,
        residual: Tensor,
        weights: Tensor,
    ) -> LowRank:
        """ΔW of one layer for n rows, which spares C and what the active edits fixed.

        Args:
            plan: its method, β, ridge and rank.
            keys, residual, weights: n × m, n × d, n.
        """
        kept = self._kept(plan.beta)[layer]
        statistics, beside = kept.statistics, kept.rows.to(keys.device)
        keys = torch.cat([keys, beside])
        residual = torch.cat([residual, residual.new_zeros(len(beside), residual.shape[1])])
        weights = torch.cat([weights.to(keys.device), weights.new_ones(len(beside)).to(keys)])
        # Both forms give the same change; with more rows than columns the full one is cheaper.
        if plan.method == "stamp-lr" and len(keys) <= keys.shape[1]:
            low = stamp_low_rank(
                keys,
                residual,
                statistics=statistics,
                beta=plan.beta,
                ridge=plan.ridge,
                weights=weights,
            )
            return low if low.rank <= plan.rank else compress(low.b, low.a, plan.rank)
        if plan.method != "paper":
            delta = stamp(
                keys,
                residual,
                second_moment=statistics.matrix().to(keys.device),
                beta=plan.beta,
                ridge=plan.ridge,
                weights=weights,
            )
        else:
            current = self.patient.layers[layer].weight.float()
            wanted = keys @ current.T + residual
            delta = paper_form(keys, wanted, plan.ridge) - current
        identity = torch.eye(delta.shape[0], device=delta.device)
        return compress(identity, delta, plan.rank)

    def _kept(self, beta: float) -> Mapping[int, Kept]:
        """What is to be left alone by layer: the model's own keys and the active edits' rows."""
        if beta not in self._protections:
            self._protections[beta] = Protection(self.preparation.statistics, beta)
        return self._protections[beta].kept(self.patient.active)

    def _before(self, probes: Sequence[Probe]) -> dict[str, list[float]]:
        """Recalls before the edit; neighbours and retain sample are what the patient just said."""
        asked = [p for p in probes if p.kind not in ("neighbour", "retain")]
        before = by_kind(asked, ask(self.patient, asked, max_new_tokens=MAX_ANSWER_TOKENS))
        for probe in probes:
            if probe.kind in ("neighbour", "retain"):
                before.setdefault(probe.kind, []).append(1.0)
        return before

    def _try(
        self, plan: RepairPlan, strengths: tuple[float, ...], rows: EditRows, clock: Clock
    ) -> Trial:
        start = time.perf_counter()
        with clock.time("solve"):
            updates = self.solve(plan, strengths, rows)
        tried = Trial(strengths, updates, time.perf_counter() - start)
        rank = max((update.a.shape[0] for update in updates), default=0)
        text = f"rank {rank} in {len(tried.layers)} of {len(plan.layers)} layers"
        shown = {"seconds": tried.seconds, "rows": len(rows.reference)}
        self.on_stage(Stage("edited", f"{text}, strength {tried.strength:g}", shown))
        with clock.time("verify"), self.patient.trial(updates):
            return replace(tried, opening=self.opening(plan.facts))

    def opening(self, facts: Sequence[KnownFact]) -> tuple[float, ...]:
        """How likely each fact's answer still is to begin, in any wording that is asked."""
        asked = [
            [Probe("paraphrase", question, fact.answer) for question in (fact.question, *others)]
            for fact in facts
            for others in [fact.probes or fact.rewordings]
        ]
        found = iter(opening_probabilities(self.patient, [p for mine in asked for p in mine]))
        return tuple(max([next(found) for _ in mine]) for mine in asked)

    def _check(
        self,
        plan: RepairPlan,
        trial: Trial,
        probes: Sequence[Probe],
        before: Mapping[str, list[float]],
        reference: Reference | None,
        clock: Clock,
    ) -> Trial:
        with clock.time("verify"), self.patient.trial(trial.updates):
            replies = ask(self.patient, probes, max_new_tokens=MAX_ANSWER_TOKENS)
            try:
                kl = mean_kl(self.patient, reference) if reference else 0.0
            except NotFinite:
                kl = float("inf")
        measures = changes(before, by_kind(probes, replies))
        left = tuple(forgotten(plan.budget, measures))
        cost = tuple(costs(plan.budget, measures, kl))
        checked = replace(trial, measures=measures, kl=kl, left=left, costs=cost)
        shown = {name: (change.before, change.after) for name, change in measures.items()}
        text = checked.complaint or "within the budget"
        self.on_stage(Stage("checked", text, {**shown, "kl": kl}))
        return checked

    def _forward_passes(self, rows: EditRows, trial: Trial) -> float:
        """The edit's time as a multiple of one plain forward pass over as many tokens.

        A few sequences tell what a token takes, once: a pass over all would be a third of a turn.
        """
        ids = rows.rows.ids
        if self._pace is None:
            some, start = ids[:PACED], time.perf_counter()
            self.patient.forward(some)
            self._pace = (time.perf_counter() - start) / (len(some) * max(map(len, some)))
        return trial.seconds / (self._pace * len(ids) * max(map(len, ids)))

    def _commit(self, plan: RepairPlan, trial: Trial, outcome: Outcome) -> Outcome:
        identity = next_id(self.patient.active)
        if self.ledger is not None:
            identity = self.ledger.commit(
                kind=plan.operation,
                method=plan.method,
                redirect=trial.strength,
                strength=outcome.strength,
                updates=trial.updates,
                targets=plan.targets,
                # A picture is not kept, so what was asked about it cannot be asked again.
                probes=[
                    p
                    for p in probes_of(plan)
                    if p.kind in ("exact", "paraphrase") and not has_picture(p.question)
                ],
                measures={**trial.measures, "kl": trial.kl},
                tokenise=rouge_tokens,
            )
        edit = Edit(identity, trial.updates).at(outcome.strength)
        self.patient.apply((*self.patient.active, edit))
        self.on_stage(Stage("committed", f"edit {identity}", {"edit": identity}))
        return replace(outcome, edit=identity)

    def _refuse(self, outcome: Outcome) -> Outcome:
        if self.ledger is not None:
            self.ledger.note("rolled_back", {**outcome.measures, "kl": outcome.kl})
        self.on_stage(Stage("rolled back", outcome.reason))
        return outcome
