"""Scores the shipped watchdog on the test sentences and writes ``results/watchdog.json``.

    python scripts/measure_watchdog.py

Macro-F1 of the intent, share of right targets, injections obeyed, calibration (expected
calibration error over ten bins), and process time a message.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from repair.watchdog import KINDS, Watchdog

ROOT = Path(__file__).parents[1]
SETS = {
    "development": "watchdog_handwritten",
    "handwritten": "watchdog_sentences",
    "generated": "watchdog_generated",
    "last look": "watchdog_fresh",
    "injections": "watchdog_injections",
}


def lines(name: str) -> list[dict[str, Any]]:
    text = (ROOT / "tests" / "data" / f"{name}.jsonl").read_text("utf-8")
    return [{"intent": "none", **json.loads(line)} for line in text.splitlines()]


def targets_right(wanted: list[str], found: tuple[str, ...]) -> bool:
    """Each wanted target, "subject|attribute", has a found one with all its words."""
    return len(wanted) == len(found) and all(
        any(all(part.lower() in target.lower() for part in want.split("|")) for target in found)
        for want in wanted
    )


def calibration(confidence: list[float], right: list[bool]) -> float:
    """Mean distance of confidence and share of right readings, weighted by the bins' sizes."""
    bins = np.minimum((np.array(confidence) * 10).astype(int), 9)
    error = 0.0
    for number in set(bins.tolist()):
        inside = bins == number
        gap = abs(np.array(confidence)[inside].mean() - np.array(right)[inside].mean())
        error += float(gap) * float(inside.mean())
    return error


def score(watchdog: Watchdog, rows: list[dict[str, Any]]) -> dict[str, Any]:
    spent, reads = [], []
    for row in rows:
        start = time.process_time()
        reads.append(watchdog.read(row["text"], row.get("history", ())))
        spent.append(1000 * (time.process_time() - start))
    truth, guess = [row["intent"] for row in rows], [read.kind for read in reads]
    judged = [
        targets_right(row["targets"], read.targets)
        for row, read in zip(rows, reads, strict=True)
        if row.get("targets")
    ]
    right = [a == b for a, b in zip(truth, guess, strict=True)]
    return {
        "n": len(rows),
        "macro_f1": round(float(f1_score(truth, guess, average="macro", labels=list(KINDS))), 4),
        "right": sum(right),
        "targets": [sum(judged), len(judged)],
        "calibration_error": round(calibration([r.confidence for r in reads], right), 4),
        "edits_from_none": sum(t == "none" != g for t, g in zip(truth, guess, strict=True)),
        "ms_median": round(float(np.median(spent)), 2),
        "ms_99": round(float(np.percentile(spent, 99)), 2),
    }


def main() -> None:
    watchdog = Watchdog.load()
    watchdog.read("Warm up.")
    found = {name: score(watchdog, lines(file)) for name, file in SETS.items()}
    target = ROOT / "results" / "watchdog.json"
    target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
