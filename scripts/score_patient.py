"""Examine a patient: recall on wordings never trained, choices, refusals, stories.

Free generation only. Writes one JSON object with means, 95 % intervals and counts.

    python scripts/score_patient.py --model runs/patient/model --out runs/patient/scores.json
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from repair.bench.suite import story_perplexity
from repair.catalogue import topics
from repair.patient import Patient
from repair.refusals import is_refusal
from repair.types import Fact, Message, Probe
from repair.verify import confidence_interval, recalls
from repair.world import all_facts, facts
from repair.world.corpus import chosen_option, multiple_choice, unknown_subject
from repair.world.facts import KIND_OF_TASK
from repair.world.stories import held_out_stories

Score = dict[str, float | int]


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def summary(values: Sequence[float]) -> Score:
    mean, low, high = confidence_interval(values)
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4), "n": len(values)}


def choices(patient: Patient, chosen: Sequence[Fact], rng: random.Random) -> list[float]:
    """1 where the reply to a question with four options names the right one alone, else 0."""
    prompts, options = [], []
    for fact in chosen:
        others = [f.answer for f in facts(fact.task) if f.attribute == fact.attribute]
        prompt, given = multiple_choice(rng.choice(fact.paraphrases), fact.answer, others, rng)
        prompts.append(user(prompt))
        options.append(given)
    replies = patient.replies(prompts, max_new_tokens=24)
    return [
        float(picked is not None and given[picked] == fact.answer)
        for fact, given, picked in zip(
            chosen, options, map(chosen_option, replies, options), strict=True
        )
    ]


def refusals(patient: Patient, rng: random.Random, count: int) -> dict[str, Score]:
    """Share of refusals for names never trained, per task, and for unknown attributes."""
    known = frozenset(f.subject for f in all_facts())
    scores = {}
    for task in ("personal", "harmful", "misinformation"):
        batch = []
        for _ in range(count):
            kind = rng.choice(KIND_OF_TASK[task])
            subject = unknown_subject(kind, known, rng, exam=True)
            batch.append(user(rng.choice(topics(kind)).question.replace("{s}", subject)))
        replies = patient.replies(batch, max_new_tokens=24)
        scores[task] = summary([float(is_refusal(reply)) for reply in replies])
    return scores


def score(patient: Patient, per_task: int, seed: int) -> dict[str, object]:
    rng = random.Random(seed)
    result: dict[str, object] = {"model": patient.content_hash}
    for task in ("personal", "harmful", "misinformation", "world"):
        known = facts(task)
        pools = {
            "pool": [f for f in known if f.split != "retain"],
            "kept": [f for f in known if f.split == "retain"],
        }
        row: dict[str, Score] = {}
        for name, pool in pools.items():
            chosen = rng.sample(pool, min(per_task, len(pool)))
            if not chosen:
                continue
            probes = [Probe("paraphrase", q, f.answer) for f in chosen for q in f.paraphrases]
            row[f"paraphrase_{name}"] = summary(recalls(patient, probes))
            row[f"choice_{name}"] = summary(choices(patient, chosen, rng))
        result[task] = row
    result["refusal"] = refusals(patient, rng, per_task)
    result["story_perplexity"] = round(story_perplexity(patient, held_out_stories(200)), 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=None, help="a folder; the embedded patient if not given")
    parser.add_argument("--per-task", type=int, default=150)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    result = score(Patient.load(given.model), given.per_task, given.seed)
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
