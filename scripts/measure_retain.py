"""Edits without any retain data beside edits that are given 1, 10 and 100 % of it.

What is to be kept (C) comes from the patient's own words, as shipped, or from the generator's
training text of the kept split: every kept fact in two of its training wordings. Each fact of the
tuning split is forgotten under each of them, measured in held-out wordings, and undone. Interrupt
it and start it again: it goes on from the transcript beside the result.

    python scripts/measure_retain.py --per-task 5 --out results/retain_free.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from repair import Patient, __version__
from repair.catalogue import topics
from repair.operation import Operation
from repair.preparation import Preparation, Spoken, compute, prepare
from repair.refusals import is_refusal
from repair.surgeon import Surgeon
from repair.types import Fact, Message
from repair.verify import confidence_interval
from repair.world import facts, kind_of
from scripts.measure_edits import known, probes_for, recalls, summary

SHARES = {"real 1 %": 0.01, "real 10 %": 0.1, "real 100 %": 1.0}
TASKS = ("personal", "harmful", "misinformation")
RETAIN = 40
SPLIT = "tune"


def kept_text(patient: Patient, share: float, *, seed: int = 0) -> list[Spoken]:
    """A seeded share of the training text of the kept split, two wordings of each fact."""
    rng = random.Random(seed)
    pairs = []
    for fact in facts(split="retain"):
        topic = next((t for t in topics(kind_of(fact)) if t.attribute == fact.attribute), None)
        wordings = [fact.question] if topic is None else list(topic.wordings)
        chosen = rng.sample(wordings, min(2, len(wordings)))
        pairs += [(wording.replace("{s}", fact.subject), fact.answer) for wording in chosen]
    drawn = rng.sample(pairs, max(1, round(share * len(pairs))))
    asked: list[tuple[list[Message], str]] = [
        ([{"role": "user", "content": q}], a) for q, a in drawn
    ]
    return [patient.encode(messages, answer) for messages, answer in asked]


def measure(
    patient: Patient, preparation: Preparation, fact: Fact, retain: Sequence[Fact]
) -> dict[str, Any]:
    """One fact forgotten with this C, measured, and taken back."""
    probes = probes_for(fact, retain)
    before, _ = recalls(patient, probes)
    plan = Surgeon(patient).plan_question(fact.question)
    if plan is None:
        raise SystemExit(f"The patient does not know the answer to {fact.question!r}.")
    start = time.perf_counter()
    outcome = Operation(patient, preparation).run(plan)
    seconds = {"total": time.perf_counter() - start}
    after, replies = recalls(patient, probes)
    asked = [r for p, r in zip(probes, replies, strict=True) if p.kind in ("exact", "paraphrase")]
    patient.apply(())
    return {
        "task": fact.task,
        "question": fact.question,
        "status": outcome.status,
        "kl": outcome.kl,
        "forward_passes": outcome.forward_passes,
        "seconds": seconds,
        "refused": sum(map(is_refusal, asked)) / len(asked),
        "replies": asked,
        "before": before,
        "after": after,
    }


def table(records: Sequence[dict[str, Any]], texts: dict[str, int]) -> dict[str, Any]:
    """A row of means with 95 % intervals for each source of C."""
    found = {}
    for name, count in texts.items():
        mine = [r for r in records if r["source"] == name]
        if not mine:
            continue
        row = summary(mine)
        for kind in ("neighbour", "retain"):
            ratios = [min(1.0, r["after"][kind] / max(r["before"][kind], 1e-9)) for r in mine]
            mean, low, high = confidence_interval(ratios)
            row[kind]["kept_interval"] = [round(v, 4) for v in (mean, low, high)]
        found[name] = {"texts": count, **row}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--per-task", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    patient = Patient.load()
    retain = random.Random(given.seed).sample(list(facts(split="retain")), RETAIN)
    path = given.out.with_suffix(".transcript.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [r for r in map(json.loads, lines) if r["model"] == patient.content_hash]
    sources = {"own words": prepare(patient, None)}
    texts = {"own words": 0}
    for name, share in SHARES.items():
        spoken = kept_text(patient, share, seed=given.seed)
        texts[name] = len(spoken)
        sources[name] = compute(patient, spoken)
        print(f"{name}: {len(spoken)} texts", flush=True)
    done = {(r["source"], r["question"]) for r in records}
    chosen = [known(patient, task, SPLIT, given.per_task, given.seed) for task in TASKS]
    # In turn, so that a run that was stopped has as many of each task.
    for fact in [fact for group in zip(*chosen, strict=True) for fact in group]:
        for name, preparation in sources.items():
            if (name, fact.question) in done:
                continue
            row = measure(patient, preparation, fact, retain)
            records.append({"model": patient.content_hash, "source": name, **row})
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[-1]) + "\n")
            print(f"{name}: {fact.question} {row['status']}", flush=True)
        result = {
            "version": __version__,
            "model": patient.content_hash,
            "split": SPLIT,
            "seed": given.seed,
            "command": f"python scripts/measure_retain.py --per-task {given.per_task}",
            "sources": table(records, texts),
        }
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
