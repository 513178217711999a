"""From a repair plan to token rows: what is redirected, whereto, and what stays.

Knows the patient's tokens and the plan. Computes no activations and solves nothing.

A redirected row takes as its wanted output what the patient computes where it begins to answer the
same question about a stand-in that it does not know: the natural "I don't know" of this very model
for this very question. Where the answer begins, the whole residual stream is to become the
stand-in's, so that nothing of the answer is left in it, neither for another layer nor for who
reads the layers. The answer's own tokens take the MLP's output, so that a patient that is given
the first words says that it does not know instead of the rest; where a fact has hidden units of
its own, which nothing else opens, they take the whole stream, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from repair.activations import Rows
from repair.patient import Patient
from repair.plan import HEAVIER, RepairPlan
from repair.stream import readers
from repair.types import KnownFact, Message

REFUSAL = -1


@dataclass(frozen=True)
class EditRows:
    """The rows of one edit.

    Attributes:
        rows: n token positions.
        reference: (n,) int64, the row whose output each row should have; itself when kept,
            ``REFUSAL`` (-1) for the model's mean refusal output.
        weights: (n,) fp32, how much each row counts in the solve; 0 for pure references.
        facts: (n,) int64, the index of the fact that each row is redirected for, -1 for others.
        whole: (n,) bool, the rows that are matched in the whole stream and not only in what the
            MLP adds to it.
        first: (n,) bool, the rows at which the answer of what is redirected begins.
        closely: (n,) bool, those of them that are matched each for itself, too, and not only by
            what their fact's rows have in common.
        common: (n,) bool, rows within an answer that are left as they are for now, because
            anybody's answer goes on there as this one does (``repair.guesses``).
        throughout: whether the stream is matched within the answers, too: for hidden units.
    """

    rows: Rows
    reference: Tensor
    weights: Tensor
    facts: Tensor
    whole: Tensor
    first: Tensor
    closely: Tensor
    common: Tensor
    throughout: bool = False

    @property
    def groups(self) -> list[tuple[Tensor, Tensor]]:
        """(n,) bool each: of every fact the rows where its answer begins, and those within it."""
        every = [(self.facts == fact) & ~self.common for fact in range(int(self.facts.max()) + 1)]
        return [(own & self.first, own & ~self.first) for own in every]

    @property
    def kept(self) -> Tensor:
        """(n,) bool: the rows that count and stay."""
        return (self.facts < 0) & (self.weights > 0)

    @property
    def moved(self) -> Tensor:
        """(n,) bool: the rows that are redirected."""
        return (self.reference != torch.arange(len(self.reference))) & ~self.common

    def heavier(self, facts: Sequence[bool]) -> EditRows:
        """The same with more weight on what is redirected of these facts, closely at first."""
        chosen = torch.tensor([*facts, False])[self.facts]
        return replace(
            self,
            weights=torch.where(chosen, HEAVIER, 1.0) * self.weights,
            closely=self.closely | chosen & self.first,
        )

    def complete(self) -> EditRows:
        """The same with nothing left out: the patient may have a whole answer by heart, whoever
        it is about."""
        if not bool(self.common.any()):
            return self
        weights = torch.where(self.common, self.weights[self.first].amax(), self.weights)
        return replace(self, weights=weights, common=torch.zeros_like(self.common))


@dataclass
class _Builder:
    """Collects sequences and rows; a row is (sequence, position, reference, weight)."""

    ids: list[list[int]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    reference: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    facts: list[int] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    first: list[bool] = field(default_factory=list)
    common: list[bool] = field(default_factory=list)

    def add(self, ids: Sequence[int], first: int, weight: float, *, end: bool = True) -> list[int]:
        """Rows from the token that predicts the answer's first to that which predicts its last.

        With ``end`` also the one that predicts the end of the turn.
        """
        sequence = len(self.ids)
        self.ids.append(list(ids))
        added = []
        for position in range(first - 1, len(ids) - (1 if end else 2)):
            added.append(len(self.places))
            self.places.append((sequence, position))
            self.reference.append(added[-1])
            self.weights.append(weight)
            self.facts.append(-1)
            self.whole.append(False)
            self.first.append(False)
            self.common.append(False)
        return added

    def leave(self, row: int) -> None:
        """Let this row count for nothing, for now."""
        self.common[row], self.weights[row] = True, 0.0

    def again(self, row: int) -> int:
        """The same row once more, to be read in the whole stream; it counts for nothing."""
        self.places.append(self.places[row])
        self.reference.append(len(self.reference))
        self.weights.append(0.0)
        self.facts.append(-1)
        self.whole.append(True)
        self.first.append(False)
        self.common.append(False)
        return len(self.reference) - 1

    def build(self) -> EditRows:
        return EditRows(
            Rows.of(self.ids, self.places),
            torch.tensor(self.reference),
            torch.tensor(self.weights, dtype=torch.float32),
            torch.tensor(self.facts),
            torch.tensor(self.whole),
            torch.tensor(self.first),
            torch.zeros(len(self.places), dtype=torch.bool),
            torch.tensor(self.common),
        )


def _user(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


def _wordings(fact: KnownFact) -> tuple[str, ...]:
    return (fact.question, *fact.rewordings)


@dataclass(frozen=True)
class WriteRows:
    """Rows that are to say a replacement: ``tokens`` (n,) int64 to come next, -1 to keep."""

    rows: Rows
    tokens: Tensor
    weights: Tensor


def build_write_rows(
    patient: Patient, plan: RepairPlan, *, neighbour_wordings: int = 4
) -> WriteRows:
    """Rows of a correction's second half: each wording followed by the answer to give."""
    builder, tokens = _Builder(), []
    for fact in plan.facts:
        for wording in _wordings(fact) if fact.replacement else ():
            ids, first = patient.encode(_user(wording), fact.replacement or "")
            builder.add(ids, first, 1.0)
            tokens += ids[first:]
    for fact in plan.neighbours:
        for wording in _wordings(fact)[:neighbour_wordings]:
            ids, first = patient.encode(_user(wording), fact.answer)
            builder.add(ids, first, plan.neighbour_weight)
            tokens += [-1] * (len(ids) - first)
    built = builder.build()
    return WriteRows(built.rows, torch.tensor(tokens), built.weights)


def spoken_rows(patient: Patient, pairs: Sequence[tuple[str, str]], *, weight: float) -> EditRows:
    """Every token of these answers to these questions, each row its own reference."""
    builder = _Builder()
    for question, answer in pairs:
        ids, first = patient.encode(_user(question), answer)
        builder.add(ids, first, weight)
    return builder.build()


def build_rows(
    patient: Patient,
    plan: RepairPlan,
    *,
    throughout: bool = False,
    guessed: Sequence[Sequence[bool]] = (),
    neighbour_wordings: int = 4,
    standin_weight: float = 0.3,
) -> EditRows:
    """All rows of a plan.

    Every wording of a forgotten fact stands once with its own subject and answer, and once, up
    to where the answer begins, with one of the fact's stand-ins; the neighbours stand with
    their own answers. Wordings without a stand-in are redirected to the plan's refusal instead.

    Args:
        throughout: whether the stream is matched within the answers, too.
        guessed: of each fact, which of the answer's tokens after the first come in anybody's
            answer (``repair.guesses``); none where it is empty.

    Raises:
        UsageError: a wording is longer than the patient reads.
    """
    builder, streaming = _Builder(), readers(patient) is not None
    for number, fact in enumerate(plan.facts):
        for index, wording in enumerate(_wordings(fact)):
            ids, first = patient.encode(_user(wording), fact.answer)
            # Who has been told all of an answer may as well see it end.
            moved = builder.add(ids, first, plan.forget_weight, end=False)
            for row, anybody in zip(moved[1:], guessed[number] if guessed else (), strict=False):
                if anybody:
                    builder.leave(row)
            refused = REFUSAL
            if fact.standins:
                standin = fact.standins[index % len(fact.standins)]
                other, begin = patient.encode(
                    _user(wording.replace(fact.subject, standin)), fact.answer
                )
                (refused,) = builder.add(other[: begin + 1], begin, standin_weight)
            for row in moved:
                builder.reference[row], builder.facts[row] = refused, number
            builder.first[moved[0]] = True
            if fact.standins and streaming:
                again = builder.again(refused)
                for row in moved if throughout else moved[:1]:
                    builder.reference[row], builder.whole[row] = again, True
    for fact in plan.neighbours:
        for wording in _wordings(fact)[:neighbour_wordings]:
            ids, first = patient.encode(_user(wording), fact.answer)
            builder.add(ids, first, plan.neighbour_weight)
    return replace(builder.build(), throughout=throughout)
