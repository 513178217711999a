"""Makes plans for fuzzed requests and checks that each is valid; writes ``results/plans.json``.

    python scripts/fuzz_plans.py [--count 10000] [--seed 0]

The patient is a tiny model with random weights that answers with four tokens: it says
anything about everything, so that every path from a request to a plan is walked.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from repair import surgeon as surgery
from repair.errors import UsageError
from repair.patient import Patient
from repair.plan import RepairPlan
from repair.requests import generate
from repair.requests.grammar import CLOSE, OPEN
from repair.surgeon import Surgeon
from repair.types import Intent
from repair.watchdog import Watchdog
from tests.conftest import build_tiny

TARGET = Path(__file__).parents[1] / "results" / "plans.json"
PIECES = (
    "Mara Voss",
    "'s ",
    "where ",
    " lives",
    "everything about ",
    "{s}",
    "\u0000",
    "🦊",
    "\n",
    "忘",
    "the ",
    "how ",
    "?",
    "a" * 700,
    "  ",
    "people who ",
    '"',
    "\\",
    "{}",
    "<b>",
    "phone number of ",
    "-1",
)


def fuzzed(seed: int, count: int) -> list[str]:
    """Generated requests, half of them spoilt by pieces of everything."""
    random = Random(seed)
    made = []
    for utterance in generate(seed, count):
        text = utterance.text.replace(OPEN, "").replace(CLOSE, "")
        for _ in range(random.choice((0, 0, 1, 3))):
            at = random.randrange(len(text) + 1)
            text = text[:at] + random.choice(PIECES) + text[at:]
        made.append(text)
    return made


def check(count: int, seed: int) -> dict[str, int]:
    """How many requests there were, how many plans came of them and how many are valid."""
    vars(surgery)["MAX_ANSWER_TOKENS"] = 4
    model, tokenizer = build_tiny("llama", layers=1)
    planner, watchdog = Surgeon(Patient(model, tokenizer, name="tiny")), Watchdog.load()
    random = Random(seed)
    found = {"requests": 0, "refused": 0, "plans": 0, "valid": 0}
    for text in fuzzed(seed, count):
        intent = watchdog.read(text)
        # Whatever the reading was: a plan is asked for, sometimes for the bare text.
        kind = intent.kind if intent.kind in ("forget", "correct") else "forget"
        targets = intent.targets if random.random() < 0.5 else (text,)
        given = (intent.replacement or "x") if kind == "correct" else None
        found["requests"] += 1
        try:
            plan = planner.plan(Intent(kind, targets[:3], 1.0, given))
        except UsageError:  # Longer than the tiny model's context: said in one sentence.
            found["refused"] += 1
            continue
        if plan is not None:
            found["plans"] += 1
            again = RepairPlan.model_validate_json(json.dumps(plan.to_json()))
            found["valid"] += again == plan
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = {"seed": options.seed, **check(options.count, options.seed)}
    TARGET.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
