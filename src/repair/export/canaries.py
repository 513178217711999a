"""What travels with an export to test it later: what must be gone, and what must still be there.

Knows sealed probes and questions anybody may ask; reaches a model only through a function that
answers. Questions about what was forgotten are encrypted and their answers keyed hashes, both
under the key of the home that made the edits, so the file tells nothing without that key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repair.errors import DiskFull, LedgerCorrupted, UsageError
from repair.refusals import is_refusal
from repair.retain import RETAIN_QUESTIONS
from repair.types import Budget, SealedProbe
from repair.vault import Vault
from repair.verify import lcs_recall, rouge_l_recall, rouge_tokens

FILE = "canaries.json"
_SCHEMA = 1
# Answers to many questions, in their order.
Answer = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class Canaries:
    """``edits`` are the sealed probes by edit; ``kept`` pairs of question and answer."""

    edits: dict[int, tuple[SealedProbe, ...]]
    kept: tuple[tuple[str, str], ...] = ()


def collect(edits: dict[int, tuple[SealedProbe, ...]], answer: Answer) -> Canaries:
    """The probes of some edits, and what the edited model still answers of general questions."""
    asked = {probe.question.casefold() for probes in edits.values() for probe in probes}
    questions = [q for q in RETAIN_QUESTIONS if q.casefold() not in asked]
    replies = answer(questions)
    kept = tuple(
        (question, reply)
        for question, reply in zip(questions, replies, strict=True)
        if reply.strip() and not is_refusal(reply)
    )
    return Canaries(edits, kept)


def save(canaries: Canaries, vault: Vault, model: str, folder: Path) -> Path:
    """Write ``canaries.json``, sealed under the vault's key.

    Raises:
        DiskFull: the folder cannot be written.
    """
    record = {
        "schema": _SCHEMA,
        "model": model,
        "key": vault.fingerprint,
        "edits": [
            {
                "edit": edit,
                "probes": [
                    {
                        "kind": probe.kind,
                        "question": vault.seal(probe.question).decode("ascii"),
                        "words": list(probe.words),
                    }
                    for probe in probes
                ],
            }
            for edit, probes in canaries.edits.items()
        ],
        "kept": [{"question": question, "answer": reply} for question, reply in canaries.kept],
    }
    path = folder / FILE
    try:
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DiskFull(
            f"{path} cannot be written ({error}).", "Free space or choose another folder."
        ) from error
    return path


def load(folder: Path, vault: Vault) -> Canaries:
    """Read what ``save`` wrote, under the same key.

    Raises:
        UsageError: no such file, or it is none of ours.
        LedgerCorrupted: it was sealed under another key.
    """
    path = folder / FILE if folder.is_dir() else folder
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != _SCHEMA:
            raise ValueError(f"schema {record['schema']}")
        if record["key"] == vault.fingerprint:
            return _read(record, vault)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"There are no readable canaries in {folder}.",
            "Give the folder that `repair export` wrote.",
        ) from error
    raise LedgerCorrupted(
        f"The canaries in {folder} were sealed under another home's key.",
        "Name the home that made the edits with --home.",
    )


def _read(record: dict[str, Any], vault: Vault) -> Canaries:
    edits = {
        int(edit["edit"]): tuple(
            SealedProbe(p["kind"], vault.open(p["question"].encode("ascii")), tuple(p["words"]))
            for p in edit["probes"]
        )
        for edit in record["edits"]
    }
    return Canaries(edits, tuple((pair["question"], pair["answer"]) for pair in record["kept"]))


def check(canaries: Canaries, vault: Vault, answer: Answer) -> dict[str, Any]:
    """Ask everything once: recall of each edit's facts, and of what must still be answered.

    Returns ``{"edits": [{"edit", "recall", "n", "passed"}], "kept": {"recall", "n", "passed"}
    or None, "passed"}``. The limits are those of an operation's budget.
    """
    budget = Budget()
    questions = [p.question for probes in canaries.edits.values() for p in probes]
    replies = iter(answer([*questions, *(question for question, _ in canaries.kept)]))
    rows = []
    for edit, probes in canaries.edits.items():
        hashed = [vault.words(rouge_tokens(next(replies))) for _ in probes]
        mean = _mean([lcs_recall(p.words, h) for p, h in zip(probes, hashed, strict=True)])
        passed = mean <= budget.forget
        rows.append({"edit": edit, "recall": mean, "n": len(probes), "passed": passed})
    kept: dict[str, Any] | None = None
    if canaries.kept:
        still = _mean([rouge_l_recall(wanted, next(replies)) for _, wanted in canaries.kept])
        passed = still >= budget.retain
        kept = {"recall": still, "n": len(canaries.kept), "passed": passed}
    passed = all(row["passed"] for row in rows) and (kept is None or kept["passed"])
    return {"edits": rows, "kept": kept, "passed": passed}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
