"""Why an edit was made: its plan made afresh, on the model without it, as a page.

Knows a session and the sealed questions of its ledger. Changes nothing that lasts.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from typing import Any

from repair.explain import page
from repair.ledger import Ledger
from repair.separation import distances, tokens
from repair.session import Session

# An edit of a whole category has many facts; the page shows how the first ones were planned.
_MOST_FACTS = 8
# What a correction put in place of an answer is kept as hashes alone.
_RIGHT = "what was said to be right (kept only as a hash)"
_STYLE = re.compile(r'<style>(.*?)</style>|\bstyle="([^"]*)"', re.DOTALL)


def why(session: Session, view: Ledger, identity: int) -> str:
    """The page for one edit that ``view`` sees. It quotes what the model said before the edit.

    The session's patient answers without the edit meanwhile; nobody else may use it.

    Raises:
        UnknownEdit: the view has no such edit.
        LedgerCorrupted: the key does not open its questions.
    """
    probes = view.probes(identity)
    asked = tuple(dict.fromkeys(p.question for p in probes if p.kind == "exact"))[:_MOST_FACTS]
    correct = view.receipt(identity)["kind"] == "correct"
    record: dict[str, Any] = {"edit": identity, "targets": asked[:1], "plan": None}
    patient, surgeon, active = session.patient, session.surgeon, view.active()
    try:
        patient.apply([edit for edit in active if edit.id != identity])
        with patient.remembering():
            facts = [fact for question in asked for fact in surgeon.known(question)[:1]]
            # A question from the answer back to its subject has no topic; the plan has its own.
            facts = [fact for fact in facts if fact.attribute] or facts[:1]
            if correct:
                facts = [replace(fact, replacement=_RIGHT) for fact in facts[:1]]
            plan = surgeon.plan_facts(asked, facts, correct=correct)
            if plan is not None:
                record["plan"] = plan.to_json()
                record["distances"] = distances(patient, plan.facts)
                record["tokens"] = {fact.question: tokens(patient, fact) for fact in plan.facts}
    finally:
        patient.apply(active)
    return page(record)


def content_policy(html: str) -> str:
    """A content policy that lets a page of ours have its own styles and nothing else.

    Text in the page is escaped, so that none of it can be taken for a style.
    """
    styles = {sheet or attribute for sheet, attribute in _STYLE.findall(html)}
    digests = [b64encode(sha256(style.encode()).digest()).decode() for style in sorted(styles)]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; style-src 'unsafe-hashes' {allowed}; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
