"""What travels with an export to test it later: what must be gone, and what must still be there.

Knows sealed probes and questions anybody may ask; reaches a model only through a function that
answers. Questions about what was forgotten are encrypted and their answers keyed hashes, both
under the key of the home that made the edits, so the file tells neither without that key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from repair.errors import DiskFull, LedgerCorrupted, UsageError
from repair.ledger import Ledger
from repair.refusals import is_refusal
from repair.retain import RETAIN_QUESTIONS
from repair.types import Budget, ProbeKind, SealedProbe
from repair.vault import Vault
from repair.verify import lcs_recall, rouge_l_recall, rouge_tokens

FILE = "canaries.json"
VERSION = 1
_OURS = "Give the folder that `repair export` wrote."
# Answers to many questions, in their order.
Answer = Callable[[Sequence[str]], list[str]]
Probes = Mapping[int, tuple[SealedProbe, ...]]


@dataclass(frozen=True)
class Canaries:
    """``edits`` are the sealed probes by edit; ``kept`` pairs of question and answer."""

    edits: Probes
    kept: tuple[tuple[str, str], ...] = ()


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Probe(_Record):
    kind: ProbeKind
    question: str
    words: list[Annotated[str, Field(pattern="^[0-9a-f]{12}$")]]


class _Edit(_Record):
    edit: int
    probes: list[_Probe]


class _Kept(_Record):
    question: str
    answer: str


class _File(_Record):
    """``canaries.json``; docs/export.md describes each field."""

    version: int
    model: str
    key: str
    edits: list[_Edit] = Field(min_length=1)
    kept: list[_Kept]


def of_active_edits(ledger: Ledger) -> Canaries:
    """The sealed probes of a ledger's active edits."""
    ids = [edit.id for edit in ledger.history() if edit.state == "active"]
    # A healing forgets nothing, and has no probes.
    found = {identity: ledger.probes(identity) for identity in ids}
    return Canaries({identity: probes for identity, probes in found.items() if probes})


def with_kept(
    canaries: Canaries, vault: Vault, answer: Answer, most: int | None = None
) -> Canaries:
    """The same, and what the edited model still answers to ``most`` (None: all) general questions.

    An answer that shares words with what was forgotten is left out: it could tell it.
    """
    probes = [probe for group in canaries.edits.values() for probe in group]
    asked = {probe.question.casefold() for probe in probes}
    questions = [q for q in RETAIN_QUESTIONS if q.casefold() not in asked][:most]
    kept = []
    for question, reply in zip(questions, answer(questions), strict=True):
        hashed = vault.words(rouge_tokens(reply))
        tells = any(lcs_recall(probe.words, hashed) > Budget().forget for probe in probes)
        if reply.strip() and not tells and not is_refusal(reply):
            kept.append((question, reply))
    return Canaries(canaries.edits, tuple(kept))


def save(canaries: Canaries, vault: Vault, model: str, folder: Path) -> Path:
    """Write ``canaries.json``, sealed under the vault's key.

    Raises:
        DiskFull: the folder cannot be written.
    """
    record = _File(
        version=VERSION,
        model=model,
        key=vault.fingerprint,
        edits=[
            _Edit(
                edit=edit,
                probes=[
                    _Probe(
                        kind=probe.kind,
                        question=vault.seal(probe.question).decode("ascii"),
                        words=list(probe.words),
                    )
                    for probe in probes
                ],
            )
            for edit, probes in canaries.edits.items()
        ],
        kept=[_Kept(question=question, answer=reply) for question, reply in canaries.kept],
    )
    path = folder / FILE
    try:
        path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DiskFull(
            f"{path} cannot be written ({error}).", "Free space or choose another folder."
        ) from error
    return path


def load(folder: Path, vault: Vault) -> Canaries:
    """Read what ``save`` wrote, under the same key.

    Raises:
        UsageError: no such file, none of ours, or of another version.
        LedgerCorrupted: it was sealed under another key, or a question was changed.
    """
    path = folder / FILE if folder.is_dir() else folder
    try:
        text = path.read_text(encoding="utf-8")
        version = json.loads(text)["version"]
        if version != VERSION:
            raise UsageError(
                f"The canaries in {folder} are of version {version}, and {VERSION} is read here.",
                "Use the version of repair that wrote them, or export again.",
            )
        record = _File.model_validate_json(text)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UsageError(f"The canaries in {folder} are broken at {place}.", _OURS) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"There are no readable canaries in {folder}.", _OURS) from error
    if record.key != vault.fingerprint:
        raise LedgerCorrupted(
            f"The canaries in {folder} were sealed under another home's key.",
            "Name the home that made the edits with --home.",
        )
    edits = {
        edit.edit: tuple(
            SealedProbe(p.kind, vault.open(p.question.encode()), tuple(p.words))
            for p in edit.probes
        )
        for edit in record.edits
    }
    return Canaries(edits, tuple((pair.question, pair.answer) for pair in record.kept))


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
