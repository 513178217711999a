"""Forget facts one at a time from the untouched patient and measure what is left.

Each fact goes through a whole operation of a session, is measured in wordings that neither
training nor the edit has seen, and is undone. Free generation only. Interrupt it and start it
again: facts already measured are read from the transcript beside the result.

    python scripts/measure_edits.py --split test --per-task 30 --out results/edits.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from repair import Patient, Session, __version__
from repair.budget import by_kind
from repair.refusals import is_refusal
from repair.types import Fact, Outcome, Probe
from repair.verify import ask, confidence_interval, prefix_probe, recall
from repair.world import facts

KINDS = ("exact", "paraphrase", "prefix", "neighbour", "retain")
RETAIN = 60


def probes_for(fact: Fact, retain: Sequence[Fact]) -> list[Probe]:
    """Forgotten: the question, held-out wordings, 40 % of the answer given; then the kept."""
    probes = [Probe("exact", fact.question, fact.answer)]
    probes += [Probe("paraphrase", question, fact.answer) for question in fact.paraphrases]
    prefix = prefix_probe(fact.question, fact.answer, 0.4)
    probes += [prefix] if prefix else []
    for other in facts(fact.task):
        if other.subject == fact.subject and other.attribute != fact.attribute:
            for question in (other.question, other.paraphrases[0]):
                probes.append(Probe("neighbour", question, other.answer))
    return probes + [Probe("retain", f.question, f.answer) for f in retain]


def recalls(patient: Patient, probes: Sequence[Probe]) -> tuple[dict[str, float], list[str]]:
    """Mean recall per kind, and every reply."""
    replies = ask(patient, probes, max_new_tokens=24)
    values: dict[str, list[float]] = {}
    for probe, reply in zip(probes, replies, strict=True):
        values.setdefault(probe.kind, []).append(recall(probe, reply))
    return {kind: sum(v) / len(v) for kind, v in values.items()}, replies


def record(fact: Fact, outcome: Outcome, rows: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "task": fact.task,
        "question": fact.question,
        "status": outcome.status,
        "reason": outcome.reason,
        "rank": outcome.rank,
        "kl": outcome.kl,
        "forward_passes": outcome.forward_passes,
        "seconds": dict(outcome.seconds),
        **rows,
    }


def measure(session: Session, fact: Fact, retain: Sequence[Fact]) -> dict[str, Any]:
    """Forget one fact, measure before and after, and undo it."""
    probes = probes_for(fact, retain)
    before, _ = recalls(session.patient, probes)
    outcome = session.forget(fact.question)
    after, replies = recalls(session.patient, probes)
    asked = [r for p, r in zip(probes, replies, strict=True) if p.kind in ("exact", "paraphrase")]
    if outcome.edit is not None:
        session.undo(outcome.edit)
    refused = sum(is_refusal(reply) for reply in asked) / len(asked)
    rows = {"before": before, "after": after, "refused": refused, "replies": asked}
    return {"model": session.patient.content_hash, **record(fact, outcome, rows)}


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means with 95 % intervals; ``kept`` is after relative to before, at most 1."""
    result: dict[str, Any] = {"n": len(records)}
    for kind in KINDS:
        rows = [r for r in records if kind in r["after"]]
        if not rows:
            continue
        result[kind] = {
            moment: _interval([r[moment][kind] for r in rows]) for moment in ("before", "after")
        }
        if kind in ("neighbour", "retain"):
            base = sum(r["before"][kind] for r in rows)
            result[kind]["kept"] = round(sum(r["after"][kind] for r in rows) / base, 4)
    result["refused"] = _interval([r["refused"] for r in records])
    result["given_away"] = _interval([given_away(r) for r in records])
    result["healed"] = sum(r["status"] == "healed" for r in records)
    for name in ("forward_passes", "kl"):
        values = sorted(r[name] for r in records)
        result[name] = round(values[len(values) // 2], 4)
    totals = sorted(r["seconds"].get("total", 0.0) for r in records)
    result["seconds"] = round(totals[len(totals) // 2], 3)
    return result


def given_away(row: Mapping[str, Any]) -> float:
    """Mean recall of the question and its other wordings, a refusal word for word counting 0."""
    fact = next(f for f in facts(row["task"]) if f.question == row["question"])
    asked = [Probe("exact", fact.question, fact.answer)]
    asked += [Probe("paraphrase", question, fact.answer) for question in fact.paraphrases]
    values = [v for same in by_kind(asked, row["replies"]).values() for v in same]
    return sum(values) / len(values)


def _interval(values: Sequence[float]) -> dict[str, float | int]:
    mean, low, high = confidence_interval(values)
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4), "n": len(values)}


def known(patient: Patient, task: str, split: str, count: int, seed: int) -> list[Fact]:
    """A seeded sample of facts; what the patient does not know cannot be forgotten."""
    pool = list(facts(task, split))
    random.Random(seed).shuffle(pool)
    probes = [Probe("exact", f.question, f.answer) for f in pool[: 2 * count]]
    replies = ask(patient, probes, max_new_tokens=24)
    right = [recall(p, r) >= 0.99 for p, r in zip(probes, replies, strict=True)]
    return [f for f, ok in zip(pool, right, strict=False) if ok][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--split", choices=("dev", "tune", "test"), default="dev")
    parser.add_argument("--per-task", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    patient = Patient.load(given.model)
    retain = random.Random(given.seed).sample(list(facts(split="retain")), RETAIN)
    transcript = given.out.with_suffix(".transcript.jsonl")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines = transcript.read_text().splitlines() if transcript.exists() else []
    done = {
        (r["task"], r["question"]): r
        for r in map(json.loads, lines)
        if r["model"] == patient.content_hash
    }
    records = []
    with tempfile.TemporaryDirectory() as home, Session(patient, home=home) as session:
        for task in ("personal", "harmful", "misinformation"):
            for fact in known(patient, task, given.split, given.per_task, given.seed):
                row = done.get((task, fact.question)) or measure(session, fact, retain)
                if (task, fact.question) not in done:
                    with transcript.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                records.append(row)
            result = {
                "command": f"python scripts/measure_edits.py --split {given.split} "
                f"--per-task {given.per_task} --seed {given.seed} --out {given.out}",
                "split": given.split,
                "seed": given.seed,
                "model": patient.content_hash,
                "versions": {
                    "repair": __version__,
                    "torch": str(torch.__version__),
                    "python": platform.python_version(),
                },
                "threads": torch.get_num_threads(),
                "tasks": {
                    name: summary([r for r in records if r["task"] == name])
                    for name in dict.fromkeys(r["task"] for r in records)
                },
            }
            given.out.write_text(json.dumps(result, indent=2) + "\n")
            print(task, "measured", len(records))


if __name__ == "__main__":
    main()
