"""Which edits a wish means: one to remember again, or one to forget what is forgotten already.

Knows the ledger's tags and sealed probes and the catalogue's wordings; takes nothing back
itself. A target may be worded otherwise than when it was forgotten, name a subject only, or
be all there is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from repair.ledger import Ledger
from repair.phrasebook import read, whole_subject
from repair.types import KnownFact
from repair.verify import lcs_recall, rouge_tokens

# A reply with less of the hashed words is not the answer that a request was about.
TOLD = 0.5
_ALL = re.compile(
    r"(?:all|every(?: one)?|each)(?: of)?(?: (?:the|your|my|these|those))?"
    r"(?: (?:edits?|changes?|operations?|of them|of it))?|everything(?: you forgot)?",
    re.IGNORECASE,
)


def edits_meant(targets: Iterable[str], ledger: Ledger) -> tuple[int, ...]:
    """Ids of the active edits that any of the targets names, ascending; empty when none is."""
    wanted: set[int] = set()
    active = [edit for edit in ledger.history() if edit.state == "active"]
    for target in targets:
        if target.isdigit():
            wanted.add(int(target))
            continue
        if _ALL.fullmatch(target.strip()):
            wanted.update(edit.id for edit in active)
            continue
        tag = ledger.vault.tag(target)
        tagged = {edit.id for edit in active if tag in edit.targets}
        if not tagged:
            asks = _asking(target)
            tagged = {e.id for e in active if any(map(asks, _questions(ledger, e.id)))}
        wanted |= tagged
    return tuple(sorted(wanted))


def covers(ledger: Ledger, fact: KnownFact) -> bool:
    """Whether an active edit is about this fact: by its question, or its subject and answer."""
    said = ledger.vault.words(rouge_tokens(fact.answer))
    subject = fact.subject.casefold()
    for edit in ledger.history():
        for probe in ledger.probes(edit.id) if edit.state == "active" else ():
            named = bool(subject) and subject in probe.question.casefold()
            if probe.question == fact.question or (named and lcs_recall(probe.words, said) >= TOLD):
                return True
    return False


def _questions(ledger: Ledger, identity: int) -> Sequence[str]:
    return [probe.question for probe in ledger.probes(identity) if probe.kind == "exact"]


def _topic(text: str) -> tuple[str, str] | None:
    """(subject, attribute) that a phrase or question is about, if the catalogue knows it."""
    readings = read(text)
    return (readings[0].subject.casefold(), readings[0].topic.attribute) if readings else None


def _asking(target: str) -> Callable[[str], bool]:
    """Whether a question asks what the target names."""
    topic = _topic(target)
    if topic is not None:
        return lambda question: topic == _topic(question)
    # A bare name means all that was forgotten about it.
    subject = (whole_subject(target) or target.strip()).casefold()
    pattern = re.compile(rf"\b{re.escape(subject)}\b")
    return lambda question: len(subject.split()) <= 3 and bool(pattern.search(question.casefold()))
