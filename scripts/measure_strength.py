"""How much is recalled when a share of an edit is in force: does it fall as the share grows?

Facts are forgotten alone; then the share (`repair strength`) goes from nothing to all of it and
every wording is asked again. Free generation only.

    python scripts/measure_strength.py --split dev --per-task 10 --out results/strength.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from repair import Patient, Session, __version__
from repair.types import Fact, Probe
from repair.verify import ask, confidence_interval, recall
from scripts.measure_edits import known

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# A rise of one wording among many by one word is noise of ROUGE-L, not knowledge.
RISE = 0.05


def recalled(session: Session, fact: Fact) -> float:
    """Mean ROUGE-L recall over the question and its unseen wordings."""
    probes = [Probe("exact", fact.question, fact.answer)]
    probes += [Probe("paraphrase", question, fact.answer) for question in fact.paraphrases]
    replies = ask(session.patient, probes, max_new_tokens=24)
    return sum(map(recall, probes, replies)) / len(probes)


def measure(session: Session, fact: Fact) -> list[float] | None:
    """Recall at each of ``SHARES``, or None where the edit was rolled back."""
    outcome = session.forget(fact.question)
    if outcome.edit is None:
        return None
    curve = []
    for share in SHARES:
        session.adjust(outcome.edit, share)
        curve.append(recalled(session, fact))
    session.undo(outcome.edit)
    return curve


def summary(curves: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean recall at each share with its 95 % interval, and how many curves never rise."""
    points = []
    for share, values in zip(SHARES, zip(*curves, strict=True), strict=True):
        mean, low, high = confidence_interval(values)
        points.append(
            {"share": share, "mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}
        )
    falling = [all(b <= a + RISE for a, b in pairwise(c)) for c in curves]
    return {"n": len(curves), "recall": points, "never_rises": sum(falling)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--split", choices=("dev", "tune", "test"), default="dev")
    parser.add_argument("--per-task", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    result: dict[str, Any] = {"version": __version__, "split": given.split, "seed": given.seed}
    with tempfile.TemporaryDirectory() as home, Session(Patient.load(), home=home) as session:
        for task in ("personal", "harmful", "misinformation"):
            chosen = known(session.patient, task, given.split, given.per_task, given.seed)
            curves = [curve for fact in chosen if (curve := measure(session, fact))]
            result[task] = summary(curves)
            print(task, json.dumps(result[task]), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
