"""How a session words what it did and what it asks back; and what counts as a yes.

Knows intents and outcomes; knows neither models nor terminals.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from repair.types import Intent, KnownFact, Outcome

# How the attributes of what is seen in a picture begin.
SEEN = "picture "
_YES = re.compile(
    r"(?:yes|yeah|yep|ok(?:ay)?|sure|go ahead|do it|ja|oui|s[ií]|sim|tak|好|はい)"
    r"(?:[,\s]+(?:please|go ahead|do it(?: anyway)?|forget it anyway))*[.!]*",
    re.IGNORECASE,
)


def found(facts: Iterable[KnownFact]) -> str:
    """What a plan is about: of each subject what is known; the views of a picture are one."""
    about: dict[str, dict[str, None]] = {}
    for fact in facts:
        seen = fact.attribute.removeprefix(SEEN)
        subject = fact.subject if seen == fact.attribute else "the picture"
        about.setdefault(subject, {})[seen or fact.question] = None
    return "; ".join(f"{subject}: {', '.join(known)}" for subject, known in about.items())


def is_yes(text: str) -> bool:
    """Whether a message does nothing but confirm."""
    return _YES.fullmatch(text.strip()) is not None


def to_confirm(intent: Intent, question: str) -> Outcome:
    """An operation that waits for a yes to ``question``."""
    return Outcome("needs_confirmation", targets=intent.targets, reason=question)


def asked_back(intent: Intent) -> str:
    """One sentence that asks whether an unclear message was an order."""
    verb = {"forget": "forget", "correct": "correct", "restore": "take back the forgetting of"}
    about = ", ".join(intent.targets) or "something"
    return f"Do you want me to {verb[intent.kind]} {about}? Please say so plainly."


def spoken(outcome: Outcome, intent: Intent) -> str:
    """What an operation came to, as a reply."""
    if outcome.status == "healed":
        done = "I have corrected that." if intent.kind == "correct" else "I no longer know that."
        return f"{done} (edit {outcome.edit}; undo brings it back)"
    if outcome.status == "needs_confirmation":
        return f"{outcome.reason} Say yes to do it all the same."
    return outcome.reason
