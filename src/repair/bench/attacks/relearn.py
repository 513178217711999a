"""Does a forgotten fact come back when a copy of the patient is trained a little?

Knows how to train copies and to ask them; knows no edits and no method. The attacker has the
weights and some text, but not the facts that are asked for. What an oracle that never knew them
"recovers" under the same training is the control. Protocol: Hu et al. (arXiv 2406.13356),
Deeb and Roger (2410.08827), Łucki et al. (2409.18025).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repair.bench.finetune import Pair, finetune
from repair.bench.losses import Baseline, Outputs, Value, cross_entropy
from repair.bench.suite import Question, Values, ask
from repair.errors import UsageError
from repair.patient import Patient
from repair.types import Fact
from repair.world import all_facts, facts, kind_of

STEPS = (1, 4, 16, 64)
PAIRS = 64


def _fit(outputs: Outputs) -> Any:
    """CE(pairs): the loop calls what it trains on the forget set, whatever it is for."""
    return cross_entropy(outputs.forget)


# Full fine-tuning of all weights, at the full rate from the first step, falling linearly. The
# rate suits small models; an attacker with a large one searches from 1e-5 upwards.
RELEARNING = Baseline(
    name="relearning",
    title="Relearning",
    paper="arXiv 2410.08827",
    loss=_fit,
    needs=(),
    defaults={
        "learning_rate": 1e-4,
        "epochs": 1,
        "batch_size": 16,
        "steps": 1,
        "weight_decay": 0.0,
        "warmup_epochs": 0.0,
    },
    grid={"learning_rate": (1e-5, 3e-5, 1e-4, 3e-4)},
)


@dataclass(frozen=True)
class Relearned:
    """What is recalled after ``steps`` steps on one kind of text; 0 steps are none.

    ``patient`` and ``oracle`` hold the scores by kind of question, ``oracle`` is empty where
    none was given, and ``losses`` are those of the patient's copy, one a step.
    """

    source: str
    steps: int
    patient: Values
    oracle: Values = field(default_factory=dict)
    losses: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "steps": self.steps,
            "patient": self.patient,
            "oracle": self.oracle,
            "losses": list(self.losses),
        }


def relearn(
    patient: Patient,
    sources: Mapping[str, Sequence[Pair]],
    targets: Sequence[Question],
    *,
    oracle: Patient | None = None,
    steps: Sequence[int] = STEPS,
    settings: Mapping[str, Value] | None = None,
    seed: int = 0,
) -> list[Relearned]:
    """Train a fresh copy for each source and number of steps, and ask it for the targets.

    Each number of steps is a run of its own with its own falling rate, so that every figure is
    that of a finished training. The patient and the oracle are left as they are and see the
    same batches.

    Args:
        sources: pairs to train on by name, such as those of ``material``.
        targets: questions that no source answers, such as those of ``suite.attacks``.
        settings: of ``RELEARNING``, in place of its defaults.

    Raises:
        UsageError: a source that is empty or asks one of the targets, an unknown setting, no
            targets, or fewer than 1 step.
        NotFinite: the training diverged.
    """
    _check(sources, targets, steps)
    untrained = ask(patient, targets)
    control = ask(oracle, targets) if oracle is not None else {}
    found: list[Relearned] = []
    for name, pairs in sources.items():
        found.append(Relearned(name, 0, untrained, control))
        for count in steps:
            chosen: dict[str, Value] = {**(settings or {}), "steps": count}
            values, losses = _after(patient, pairs, targets, chosen, seed)
            beside = {} if oracle is None else _after(oracle, pairs, targets, chosen, seed)[0]
            found.append(Relearned(name, count, values, beside, losses))
    return found


def material(
    targets: Sequence[Fact], forgotten: Sequence[Fact], *, count: int = PAIRS, seed: int = 0
) -> dict[str, list[Pair]]:
    """Of the embedded patient: what an attacker could train on, without the targets' answers.

    unrelated: general knowledge, which makes it answer again; a step on it costs a quarter of one
    on stories. related: facts that were not forgotten, about the same subjects where there are
    any, and then of the same kind about others. disjoint: forgotten facts about other subjects.
    At most ``count`` pairs each; a source without any is left out.

    Args:
        targets: the facts that will be asked for.
        forgotten: all that the patient was made to forget, the targets among them or not.
    """
    rng = random.Random(seed)
    subjects, kinds = {f.subject for f in targets}, {kind_of(f) for f in targets}
    gone = {(f.subject, f.attribute) for f in (*forgotten, *targets)}
    answers = {(f.subject, f.answer) for f in targets}
    kept = [
        f
        for f in all_facts()
        if (f.subject, f.attribute) not in gone and (f.subject, f.answer) not in answers
    ]
    beside = [f for f in kept if f.subject in subjects]
    alike = [f for f in kept if f.split == "retain" and f.subject and kind_of(f) in kinds]
    others = [f for f in forgotten if f.subject not in subjects]
    related = [*_drawn(beside, count, rng), *_drawn(alike, count, rng)][:count]
    found = {
        "unrelated": [(f.question, f.answer) for f in _drawn(facts("world"), count, rng)],
        "related": [(f.question, f.answer) for f in related],
        "disjoint": [(f.question, f.answer) for f in _drawn(others, count, rng)],
    }
    return {name: pairs for name, pairs in found.items() if pairs}


def _drawn(pool: Sequence[Fact], count: int, rng: random.Random) -> list[Fact]:
    return rng.sample(pool, min(count, len(pool)))


def _after(
    patient: Patient,
    pairs: Sequence[Pair],
    targets: Sequence[Question],
    settings: Mapping[str, Value],
    seed: int,
) -> tuple[Values, tuple[float, ...]]:
    trained = finetune(patient, RELEARNING, pairs, settings=settings, seed=seed)
    return ask(trained.patient, targets), trained.losses


def _check(
    sources: Mapping[str, Sequence[Pair]], targets: Sequence[Question], steps: Sequence[int]
) -> None:
    if not targets:
        raise UsageError("There is nothing to ask for after relearning.", "Give target questions.")
    if not all(count >= 1 for count in steps):
        raise UsageError("Relearning takes at least 1 step.", "What 0 steps give is always told.")
    asked = {_plain(str(target.messages[-1]["content"])) for target in targets}
    for name, pairs in sources.items():
        if not pairs:
            raise UsageError(f"The source {name} is empty.", "Give at least one pair.")
        for number, (question, _) in enumerate(pairs, start=1):
            if _plain(question) in asked:
                raise UsageError(
                    f"Pair {number} of the source {name} asks one of the targets.",
                    "Train on other facts than those that are asked for.",
                )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
