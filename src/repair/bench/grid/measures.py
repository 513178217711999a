"""What the forgotten and the kept pairs of a work are asked, and what the replies come to.

Knows pairs, replies and scores; nothing of how a patient was changed. Free generation
throughout. A pair's value is the mean over its wordings, so that n counts facts.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from repair.bench.datasets.records import Pair
from repair.bench.grid.works import Work
from repair.bench.metrics import Score, bootstrap_score, mean_score
from repair.bench.suite import Question, replies, score, story_losses
from repair.errors import NotFinite
from repair.patient import Patient
from repair.refusals import is_refusal
from repair.types import Message
from repair.verify import prefix_probe
from repair.world.corpus import multiple_choice
from repair.world.stories import held_out_stories

PREFIX = 0.4
STORIES, STORIES_OF_ONE = 60, 30
# Of each group the pairs that are asked as a choice too.
CHOICES = 24


@dataclass(frozen=True)
class Measure:
    """A column: its title, what it means, and whether less of it is better."""

    title: str
    meaning: str
    lower: bool


MEASURES: dict[str, Measure] = {
    "forget_accuracy": Measure("Acc_f", "forgotten facts still given in full", True),
    "retain_accuracy": Measure("Acc_r", "kept facts given in full", False),
    "forget_choice": Measure("MC_f", "forgotten facts picked among four options", True),
    "retain_choice": Measure("MC_r", "kept facts picked among four options", False),
    "forget_rouge": Measure("F-RL", "ROUGE-L recall of forgotten answers", True),
    "retain_rouge": Measure("R-RL", "ROUGE-L recall of kept answers", False),
    "forget_prefix": Measure("prefix", "recall of the rest when 40 % of an answer is given", True),
    "neighbours_rouge": Measure("N-RL", "recall of other facts about the same subjects", False),
    "forget_refused": Measure("refused", "forgotten facts answered by a refusal", False),
    "retain_refused": Measure("over-refused", "kept facts answered by a refusal", True),
    "perplexity": Measure("PPL", "perplexity of held-out stories, a token", True),
    "seconds": Measure("RTE, s", "run time of one forgetting, in seconds", True),
}


@dataclass(frozen=True)
class Asked:
    """One question of a work: which group and pair it belongs to, and what was replied."""

    group: str
    pair: int
    question: Question
    reply: str = ""

    @property
    def score(self) -> float:
        return score(self.question, self.reply)

    def to_json(self, work: int) -> dict[str, Any]:
        return {
            "set": work,
            "group": self.group,
            "kind": self.question.kind,
            "question": str(self.question.messages[-1]["content"]),
            "prefix": self.question.prefix,
            "answer": self.question.answer,
            "reply": self.reply,
            "score": round(self.score, 4),
        }


def turn(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def questions(work: Work, seed: int, *, brief: bool = False) -> list[Asked]:
    """Everything that a work asks, the replies still empty; no choices where it is to be brief."""
    found: list[Asked] = []
    groups = {"forget": work.forget, "retain": work.retain, "neighbours": work.neighbours}
    for group, pairs in groups.items():
        for index, pair in enumerate(pairs):
            wordings = pair.paraphrases if group == "forget" else pair.paraphrases[:1]
            found.append(Asked(group, index, Question("exact", turn(pair.question), pair.answer)))
            found += [
                Asked(group, index, Question("paraphrase", turn(text), pair.answer))
                for text in wordings
            ]
            if group != "neighbours" and index < CHOICES and not brief:
                found += [Asked(group, index, q) for q in _choices(pair, pairs, seed)]
        if group == "forget":
            found += [a for i, p in enumerate(pairs) for a in _prefixed(i, p)]
    return found


def answered(patient: Patient, asked: Sequence[Asked]) -> list[Asked]:
    """The same questions with the patient's replies."""
    said = replies(patient, [a.question for a in asked])
    return [replace(a, reply=reply) for a, reply in zip(asked, said, strict=True)]


def measure(patient: Patient, work: Work, seed: int) -> tuple[list[Asked], list[Any]]:
    """Every question with its reply, and (nats, tokens) of each held-out story.

    Raises:
        NotFinite: the patient's predictions are NaN or infinite.
    """
    told = answered(patient, questions(work, seed))
    count = STORIES_OF_ONE if len(work.forget) == 1 else STORIES
    losses = story_losses(patient, held_out_stories(count))
    if not all(math.isfinite(nats) for nats, _ in losses):
        raise NotFinite("The patient's predictions are no longer finite.", "Use other settings.")
    return told, list(losses)


def summed_up(
    asked: Sequence[Sequence[Asked]], stories: Sequence[Sequence[Any]], seconds: Sequence[float]
) -> dict[str, Score]:
    """The measures of a cell from the replies, stories and seconds of each of its sets."""
    report = recalled(asked)
    told_stories = torch.tensor([row for rows in stories for row in rows], dtype=torch.float64)
    times = torch.tensor(list(seconds), dtype=torch.float64)

    def perplexity(chosen: torch.Tensor) -> float:
        nats, tokens = told_stories[chosen].sum(dim=0).tolist()
        return math.exp(min(nats / tokens, 700.0))

    report["perplexity"] = bootstrap_score(perplexity, [len(told_stories)])
    report["seconds"] = bootstrap_score(lambda i: float(times[i].mean()), [len(times)])
    return {name: report[name] for name in MEASURES if name in report}


def recalled(asked: Sequence[Sequence[Asked]]) -> dict[str, Score]:
    """The measures that replies alone give, from those of each set."""
    values: dict[str, list[float]] = defaultdict(list)
    for told in asked:
        for name, found in _of_one_set(told).items():
            values[name] += found
    return {name: mean_score(values[name]) for name in MEASURES if values.get(name)}


def _of_one_set(told: Sequence[Asked]) -> dict[str, list[float]]:
    """Values by measure, one a pair."""
    by_pair: dict[tuple[str, int], list[Asked]] = defaultdict(list)
    for asked in told:
        by_pair[asked.group, asked.pair].append(asked)
    values: dict[str, list[float]] = defaultdict(list)
    for (group, _), rows in by_pair.items():
        open_ended = [a for a in rows if a.question.kind in ("exact", "paraphrase")]
        scores = [a.score for a in open_ended]
        values[f"{group}_rouge"].append(_mean(scores))
        values[f"{group}_accuracy"].append(_mean([float(s >= 1.0) for s in scores]))
        refused = [float(is_refusal(a.reply)) for a in open_ended]
        values[f"{group}_refused"].append(_mean(refused))
        for kind in ("choice", "prefix"):
            scores = [a.score for a in rows if a.question.kind == kind]
            if scores:
                values[f"{group}_{kind}"].append(_mean(scores))
    return values


def balance(measures: Mapping[str, Score]) -> float:
    """What a search maximises: the harmonic mean of what is forgotten and what is kept.

    Forgotten is 1 − recall; kept the mean recall of kept facts and, where there are any, of
    neighbours.
    """
    gone = 1.0 - measures["forget_rouge"]["mean"]
    names = [name for name in ("retain_rouge", "neighbours_rouge") if name in measures]
    kept = _mean([measures[name]["mean"] for name in names])
    return 2 * gone * kept / (gone + kept) if gone + kept else 0.0


def _choices(pair: Pair, pairs: Sequence[Pair], seed: int) -> list[Question]:
    """The pair as a choice among four, if there are three other answers to be had."""
    wrong = list(dict.fromkeys(w for w in pair.wrong_answers if w != pair.answer))
    others = wrong if len(wrong) >= 3 else [p.answer for p in pairs]
    if len({o for o in others if o != pair.answer}) < 3:
        return []
    rng = random.Random(f"{seed} {pair.id}")
    prompt, options = multiple_choice(pair.question, pair.answer, others, rng)
    return [Question("choice", turn(prompt), pair.answer, options=options)]


def _prefixed(index: int, pair: Pair) -> list[Asked]:
    probe = prefix_probe(pair.question, pair.answer, PREFIX)
    if probe is None:
        return []
    question = Question("prefix", turn(pair.question), pair.answer, probe.prefix)
    return [Asked("forget", index, question)]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
