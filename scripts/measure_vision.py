"""Measure forgetting on the embedded vision patient: from pictures and from text.

Writes ``results/vision.json``. People of a split are forgotten one at a time; each is asked
about in drawings that neither training nor the edit saw and in wordings that neither used.

    python scripts/measure_vision.py --split test --out results/vision.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import repair
from repair.errors import RepairError
from repair.patient import Patient
from repair.pictures import of
from repair.refusals import is_refusal
from repair.session import Session
from repair.types import Probe
from repair.verify import ask, confidence_interval, recall
from repair.world.albums import TOLD
from repair.world.faces import HELD_OUT, HELD_OUT_DRAWINGS, Person, draw, people, stranger
from repair.world.heldout import HELD_OUT as HELD_OUT_TEXT

DRAWINGS = 3


def drawings(patient: Patient, person: Person, seed: int, count: int = DRAWINGS) -> list[str]:
    """References of drawings of a person that nothing else has seen."""
    return [patient.show(of(draw(person.look, HELD_OUT_DRAWINGS + seed + i))) for i in range(count)]


def probes(patient: Patient, person: Person, seed: int) -> dict[str, list[Probe]]:
    """What is asked of one person, by kind: picture, text, description."""
    shown = drawings(patient, person, seed)
    return {
        "picture": [
            Probe("exact", f"{ref} {wording}", person.facts[attribute])
            for ref in shown
            for attribute in person.facts
            for wording in HELD_OUT[attribute]
        ],
        "text": [
            Probe("exact", wording.replace("{s}", person.name), person.facts[attribute])
            for attribute in TOLD
            for wording in HELD_OUT_TEXT["person", attribute]
        ],
        "description": [
            Probe("exact", f"{ref} {wording}", answer)
            for ref in shown
            for attribute, answer in person.view.items()
            for wording in HELD_OUT[attribute]
        ],
    }


def scored(patient: Patient, asked: Sequence[Probe]) -> tuple[list[float], list[float]]:
    """Recalls of the answers, and which replies refuse (1) or not (0)."""
    replies = ask(patient, asked, max_new_tokens=24)
    return (
        [recall(probe, reply) for probe, reply in zip(asked, replies, strict=True)],
        [float(is_refusal(reply)) for reply in replies],
    )


def strangers(patient: Patient, seed: int, count: int = 20) -> list[float]:
    """Of pictures of nobody: which are answered with "I don't know"."""
    rng = random.Random(seed)
    asked = [
        Probe("exact", f"{patient.show(of(draw(stranger(rng), seed + i)))} {wording}", "x")
        for i in range(count)
        for wording in HELD_OUT["name"]
    ]
    return scored(patient, asked)[1]


class Table:
    """Recalls before and after, gathered by kind."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, name: str, values: Sequence[float]) -> None:
        self.values.setdefault(name, []).extend(values)

    def to_json(self) -> dict[str, dict[str, float | int]]:
        found = {}
        for name, values in self.values.items():
            mean, low, high = confidence_interval(values)
            found[name] = {
                "mean": round(mean, 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "n": len(values),
            }
        return found


# Recalls of the untouched patient by (question, answer): it is the same before every edit.
_UNTOUCHED: dict[tuple[str, str], float] = {}


def untouched(patient: Patient, asked: Sequence[Probe]) -> list[float]:
    """Recalls of the patient without edits; nothing is asked twice."""
    new = [probe for probe in asked if (probe.question, probe.answer) not in _UNTOUCHED]
    for probe, value in zip(new, scored(patient, new)[0] if new else (), strict=True):
        _UNTOUCHED[probe.question, probe.answer] = value
    return [_UNTOUCHED[probe.question, probe.answer] for probe in asked]


def knowledge(patient: Patient, split: str) -> Table:
    """What the untouched patient knows of a split's people and of those who are only kept."""
    table = Table()
    table.add("strangers refused", strangers(patient, 7))
    for person in (p for p in people() if p.split in (split, "retain")):
        group = "kept" if person.split == "retain" else "pool"
        for kind, asked in probes(patient, person, 1000 * people().index(person)).items():
            table.add(f"{group} {kind}", untouched(patient, asked))
    return table


def measure(patient: Patient, person: Person, others: Sequence[Person], table: Table) -> Any:
    """Forget one person from one picture; what is then said of everybody; take it back."""
    weights = {n: p.clone() for n, p in patient.model.named_parameters()}
    seed = 1000 * people().index(person)
    own = probes(patient, person, seed)
    beside: dict[str, list[Probe]] = {}
    for other in others:
        theirs = probes(patient, other, 1000 * people().index(other))
        for kind, asked in theirs.items():
            beside.setdefault(kind, []).extend(asked)
    with tempfile.TemporaryDirectory() as home, Session(patient, home=home) as session:
        (given,) = drawings(patient, person, seed + 900, 1)
        for name, asked in own.items():
            table.add(f"own {name} before", untouched(patient, asked))
        for name, asked in beside.items():
            table.add(f"others {name} before", untouched(patient, asked))
        start = time.perf_counter()
        try:
            outcome = session.request(
                f"{given} Please forget who this is.", kind="forget", yes=True
            )
        except RepairError as error:
            return {"status": str(error)}
        seconds = time.perf_counter() - start
        for name, asked in own.items():
            recalled, refused = scored(patient, asked)
            table.add(f"own {name} after", recalled)
            if name != "description":
                table.add(f"own {name} refused after", refused)
        for name, asked in beside.items():
            table.add(f"others {name} after", scored(patient, asked)[0])
        if outcome.status == "healed":
            session.undo()
    same = all(torch.equal(weights[n], p) for n, p in patient.model.named_parameters())
    return {
        "status": outcome.status,
        "seconds": round(seconds, 2),
        "passes": round(outcome.forward_passes, 2),
        "undo_exact": same,
        "reason": outcome.reason,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="vision")
    parser.add_argument("--split", choices=("dev", "tune", "test"), default="dev")
    parser.add_argument("--others", type=int, default=6, help="people asked about beside")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    patient = Patient.load(given.model)
    table, told = Table(), []
    known = knowledge(patient, given.split).to_json()
    print(json.dumps(known), flush=True)
    for person in (p for p in people() if p.split == given.split):
        rng = random.Random(people().index(person))
        beside = [p for p in people() if p is not person and p.split in (given.split, "retain")]
        others = rng.sample(beside, given.others)
        told.append(measure(patient, person, others, table))
        print(told[-1], flush=True)
    statuses = [t["status"] for t in told]
    result = {
        "split": given.split,
        "people": len(told),
        "healed": statuses.count("healed"),
        "undo_exact": all(t.get("undo_exact", False) for t in told),
        "seconds": round(statistics.median(t.get("seconds", 0.0) for t in told), 2),
        "command": f"python scripts/measure_vision.py --split {given.split} "
        f"--others {given.others} --out {given.out}",
        "versions": f"repair {repair.__version__}, torch {torch.__version__}, "
        f"python {platform.python_version()}, {torch.get_num_threads()} thread",
        "model": patient.content_hash,
        "knowledge": known,
        "measures": table.to_json(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
