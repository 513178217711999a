"""All attacks on the patient that one method made, as one cell of the grid.

Knows the order of the attacks and what each is asked; how one works stands beside it. Every
attack gives recalls by label: n counts facts, or questions where a fact is asked in two ways.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from repair.bench.attacks.inside import (
    Contrast,
    found_within,
    linear_probes,
    logit_lens,
    refusal_ablation,
    sorted_by_refusal,
)
from repair.bench.attacks.prompts import NO_LANGUAGES, SAMPLES, best_of, prompt_attacks, sampled
from repair.bench.attacks.quantise import WAYS, Scheme, quantised
from repair.bench.attacks.relearn import STEPS, material, relearn
from repair.bench.datasets.records import Pair
from repair.bench.grid.cells import Cell
from repair.bench.grid.lab import Lab
from repair.bench.grid.measuring import header
from repair.bench.grid.methods import get
from repair.bench.grid.works import Work
from repair.bench.metrics import Score, mean_score
from repair.bench.suite import Question, ask, replies
from repair.bench.suite import score as scored
from repair.catalogue import STANDINS
from repair.errors import NotFinite, UsageError
from repair.patient import Patient
from repair.types import Fact, Messages
from repair.world import all_facts, facts, kind_of
from repair.world.stories import held_out_stories

SCHEMES = (Scheme(8), Scheme(4, 64), Scheme(4))
# What takes minutes a set stops after the sets that hold so many facts.
COSTLY, ENOUGH = ("sampling", "relearning"), 20
# An answer counts as found by the lens when its first token is among so many.
CANDIDATES = 20
_PROMPTS, _FOLDS = 48, 5
Values = dict[str, list[float]]
Attack = Callable[[Patient, Work, Cell], Values]


def attacked(cell: Cell, lab: Lab) -> dict[str, Any]:
    """The result of a cell of attacks: scores by family and label, and a transcript.

    Raises:
        UsageError: an unknown family, or bad data.
    """
    begun = time.perf_counter()
    works, found = lab.works(cell), dict[str, dict[str, Score]]()
    pooled: dict[str, Values] = {name: defaultdict(list) for name in cell.attacks}
    seconds: dict[str, float] = defaultdict(float)
    left_out: dict[str, str] = {} if cell.model else {"other languages": NO_LANGUAGES}
    sets = {name: _sets(name, works) for name in cell.attacks}
    left_out |= {
        name: f"{name.capitalize()} takes the first {some} of {len(works)} sets."
        for name, some in sets.items()
        if some < len(works)
    }
    transcript: list[dict[str, Any]] = []
    for number, work in enumerate(works):
        with lab.made(get(cell.method).make, cell, work) as (patient, made):
            for name in cell.attacks:
                if number >= sets[name]:
                    continue
                start = time.perf_counter()
                try:
                    values = FAMILIES[name](patient, work, cell)
                except (UsageError, NotFinite) as error:
                    left_out[name] = str(error)
                    continue
                finally:
                    seconds[name] += time.perf_counter() - start
                for label, numbers in values.items():
                    pooled[name][label] += numbers
            if "prompts" in cell.attacks:
                transcript += _told(patient, work, cell)
            seconds["methods"] += made.seconds
    for name, labels in pooled.items():
        found[name] = {label: mean_score(v) for label, v in labels.items() if v}
    return {
        **header(cell, lab),
        "counts": {"sets": len(works), "forgotten": sum(len(w.forget) for w in works)},
        "seconds": {**seconds, "total": time.perf_counter() - begun},
        "attacks": found,
        "left_out": left_out,
        "transcript": transcript,
    }


def _sets(name: str, works: Sequence[Work]) -> int:
    """How many of the sets, from the first, a family takes."""
    if name not in COSTLY:
        return len(works)
    counts = itertools.accumulate(len(work.forget) for work in works)
    return min(len(works), 1 + sum(count < ENOUGH for count in counts))


def targets(pairs: Sequence[Pair]) -> list[Question]:
    """What is asked again after the weights were attacked: the question and one other wording."""
    return [
        Question("exact" if text == pair.question else "paraphrase", _turn(text), pair.answer)
        for pair in pairs
        for text in (pair.question, *pair.paraphrases[:1])
    ]


def _turn(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _together(values: Mapping[str, Sequence[float]]) -> list[float]:
    return [value for numbers in values.values() for value in numbers]


# Families


def _asked(work: Work, cell: Cell) -> list[Question]:
    by_subject = defaultdict(list)
    for pair in work.neighbours:
        by_subject[pair.subject].append(pair)
    return [
        question
        for pair in work.forget
        for question in prompt_attacks(
            pair,
            work.buffer,
            by_subject[pair.subject],
            random.Random(f"{cell.seed} {pair.id}"),
            languages=cell.model is not None,
        )
    ]


def _prompts(patient: Patient, work: Work, cell: Cell) -> Values:
    return ask(patient, _asked(work, cell))


def _told(patient: Patient, work: Work, cell: Cell) -> list[dict[str, Any]]:
    questions = [q for q in _asked(work, cell) if q.kind in ("exact", "affirmative start")]
    return [
        {
            "kind": question.kind,
            "question": str(question.messages[-1]["content"]),
            "prefix": question.prefix,
            "answer": question.answer,
            "reply": reply,
            "score": round(scored(question, reply), 4),
        }
        for question, reply in zip(questions, replies(patient, questions), strict=True)
    ]


def _sampling(patient: Patient, work: Work, cell: Cell) -> Values:
    drawn = [sampled(patient, pair, max(SAMPLES), seed=cell.seed) for pair in work.forget]
    return {f"best of {k}": [best_of(values, k) for values in drawn] for k in SAMPLES}


def _quantisation(patient: Patient, work: Work, cell: Cell) -> Values:  # noqa: ARG001
    asked = targets(work.forget)
    found: Values = {"before": _together(ask(patient, asked))}
    # Without active edits, as after training, both ways are the same.
    for way in WAYS if patient.active else WAYS[:1]:
        for scheme in SCHEMES:
            copy = quantised(patient, scheme, way)
            found[f"{scheme.name}, {way}"] = _together(ask(copy, asked))
    return found


def _relearning(patient: Patient, work: Work, cell: Cell) -> Values:
    half = max(1, len(work.forget) // 2)
    asked = work.forget[:half]
    rows = relearn(patient, _sources(work, asked, cell), targets(asked), seed=cell.seed)
    return {f"{row.source}, {row.steps}": _together(row.patient) for row in rows}


def _sources(work: Work, asked: Sequence[Pair], cell: Cell) -> dict[str, list[tuple[str, str]]]:
    """Text that an attacker could train on, without the answers that are asked for."""
    known = {fact.question: fact for fact in all_facts()}
    if cell.forget is None:
        gone = [known[pair.question] for pair in work.forget]
        return material(gone[: len(asked)], gone, seed=cell.seed)
    others = [(pair.question, pair.answer) for pair in work.forget[len(asked) :]]
    sources = {
        "unrelated": held_out_stories(64),
        "related": [(pair.question, pair.answer) for pair in work.buffer],
        "disjoint": others,
    }
    return {name: pairs for name, pairs in sources.items() if pairs}


def _ablation(patient: Patient, work: Work, cell: Cell) -> Values:
    """Of the direction between refused and answered prompts, in the same wordings."""
    kept = work.buffer[:_PROMPTS]
    prompts = [_turn(pair.question) for pair in kept]
    if cell.forget is None:
        known: dict[str, Fact] = {fact.question: fact for fact in all_facts()}
        for index, pair in enumerate(kept):
            names = STANDINS[kind_of(known[pair.question])]
            other = pair.question.replace(pair.subject, names[index % len(names)])
            prompts.append(_turn(other))
    else:
        prompts += [_turn(pair.question) for pair in work.forget]
    refused, answered = sorted_by_refusal(patient, prompts)
    rows = refusal_ablation(patient, refused, answered, targets(work.forget))
    return {
        "before" if row.layer is None else f"layer {row.layer}": _together(row.values)
        for row in rows
    }


def _lens(patient: Patient, work: Work, cell: Cell) -> Values:  # noqa: ARG001
    readings = logit_lens(patient, [(pair.question, pair.answer) for pair in work.forget])
    found = {
        f"layer {layer}": [float(r.ranks[layer] <= CANDIDATES) for r in readings]
        for layer in range(len(readings[0].ranks))
    }
    return {**found, "any layer": found_within(readings, CANDIDATES)}


def _probes(patient: Patient, work: Work, cell: Cell) -> Values:
    contrasts = [
        Contrast(((pair.question, pair.answer),), ((pair.question, wrong),))
        for pair in work.forget
        if (wrong := _wrong(pair, cell)) is not None
    ]
    known = [(pair.question, pair.answer) for pair in work.buffer]
    layers = linear_probes(patient, contrasts, known, folds=_FOLDS, seed=cell.seed)
    # Hits are ones and zeros, so their mean and number tell them all.
    return {f"layer {layer}": _hits(score) for layer, score in enumerate(layers)}


def _wrong(pair: Pair, cell: Cell) -> str | None:
    """A wrong answer that a model which knows none of the facts cannot tell from the right one.

    Of the embedded patient's tasks it is another fact's of the same split and attribute: an
    answer of a kept fact would be told by its words, which the oracle was trained on.
    """
    others = list(pair.wrong_answers)
    if cell.forget is None:
        pool = facts(cell.task, cell.split)
        attribute = next(fact.attribute for fact in pool if fact.question == pair.question)
        others = [f.answer for f in pool if f.attribute == attribute and f.answer != pair.answer]
    return random.Random(f"{cell.seed} {pair.id}").choice(others) if others else None


def _hits(score: Score) -> list[float]:
    right = score["mean"] * score["n"]
    return [min(1.0, max(0.0, right - i)) for i in range(score["n"])]


FAMILIES: dict[str, Attack] = {
    "prompts": _prompts,
    "sampling": _sampling,
    "quantisation": _quantisation,
    "relearning": _relearning,
    "ablation": _ablation,
    "lens": _lens,
    "probes": _probes,
}
RELEARNING_STEPS = (0, *STEPS)
