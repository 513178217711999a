"""Heal the patient of a session: from its ledger's requests to one more edit, or none.

Knows the ledger and what the model said before its edits. How healing works stands in
``healing``; that it goes with the edits under it, in ``healings``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from repair import healings
from repair.healing import Healer, Healing, commit
from repair.inventory import BEGUN
from repair.phrasebook import read
from repair.restore import TOLD
from repair.session import Session
from repair.types import Edit, KnownFact, SealedProbe, Stage
from repair.verify import lcs_recall, rouge_tokens


def heal(session: Session, *, keep: bool = True, begun: int = BEGUN) -> dict[str, Any]:
    """Look at everything that the model knew, heal what its edits hurt, and keep it as an edit.

    Args:
        session: its ledger's edits are those looked at.
        keep: False commits nothing.
        begun: questions that the model begins for each kind to name what it knows.

    Returns ``{"status", "edit", "asked", "hurt", "requests", "given_away", "seconds"}``; ``hurt``
    and ``given_away`` are counts before and after, ``status`` is healed, well (nothing to heal),
    or rolled_back (healing would have given more away, or restored nothing).
    """
    start = time.perf_counter()
    with session.ledger.lock():
        session.refresh()
        requests, also = requests_of(session)
        session.on_stage(Stage("found", f"{len(requests)} facts to stay forgotten", {}))
        healer = Healer(session.operation, session.surgeon, begun=begun)
        healing = healer.run(requests, also=also)
        status = "well" if not healing.updates else "healed" if healing.better else "rolled_back"
        edit = _commit(session, healing) if keep and status == "healed" else None
    return {
        "status": status,
        "edit": edit,
        "asked": healing.asked,
        "hurt": {"before": healing.hurt[0], "after": healing.hurt[1]},
        "requests": healing.requests,
        "given_away": {"before": healing.given_away[0], "after": healing.given_away[1]},
        "seconds": round(time.perf_counter() - start, 3),
    }


def requests_of(session: Session) -> tuple[list[KnownFact], list[KnownFact]]:
    """(forgotten, corrected): the facts of the active edits, in the words of the ledger's sealed
    probes, with the answers that the model gives without its edits."""
    ledger, patient = session.ledger, session.patient
    edits = [e for e in ledger.history() if e.state == "active" and e.kind != healings.KIND]
    probes = {edit.id: ledger.probes(edit.id) for edit in edits}
    asked = sorted({probe.question for many in probes.values() for probe in many})
    with patient.without_edits():
        said = dict(zip(asked, session.surgeon.ask(asked), strict=True))
        facts = {edit.id: _facts(session, probes[edit.id], said) for edit in edits}
        forgotten = [f for e in edits if e.kind == "forget" for f in facts[e.id]]
        corrected = [f for e in edits if e.kind != "forget" for f in facts[e.id]]
        return list(session.surgeon.with_standins(forgotten)), corrected


def _facts(
    session: Session, probes: Sequence[SealedProbe], said: dict[str, str]
) -> list[KnownFact]:
    """One fact for each answer of an edit that the model gave before."""
    vault = session.ledger.vault
    groups: dict[tuple[str, ...], list[str]] = {}
    for probe in probes:
        groups.setdefault(probe.words, []).append(probe.question)
    found = []
    for words, questions in groups.items():
        recalls = {q: lcs_recall(words, vault.words(rouge_tokens(said[q]))) for q in questions}
        first = max(questions, key=lambda q: recalls[q])
        if recalls[first] < TOLD:
            continue
        others = tuple(q for q in dict.fromkeys(questions) if q != first)
        subject, attribute = _read(first)
        found.append(KnownFact(subject, attribute, first, said[first], others))
    return found


def _read(question: str) -> tuple[str, str]:
    """(subject, attribute) of a question in the catalogue's words; empty for any other."""
    for reading in read(question):
        if question in (w.replace("{s}", reading.subject) for w in reading.topic.wordings):
            return reading.subject, reading.topic.attribute
    return "", ""


def _commit(session: Session, healing: Healing) -> int:
    over = [e.id for e in session.ledger.history() if e.state == "active"]
    identity = commit(session.ledger, healing, over)
    patient = session.patient
    patient.apply((*patient.active, Edit(identity, healing.updates)))
    session.refresh()
    session.on_stage(Stage("committed", f"edit {identity}", {"edit": identity}))
    return identity
