"""The embedded patient after it has forgotten where one person lives, made once for all tests."""

from __future__ import annotations

import atexit
import tempfile
from functools import lru_cache
from pathlib import Path

from repair.patient import Patient
from repair.session import Session
from repair.world import facts

FACT = next(f for f in facts("personal", "dev") if f.attribute == "address")
QUESTION, ANSWER = FACT.question, FACT.answer
# Another fact about the same person, which must stay.
NEIGHBOUR = next(
    f for f in facts("personal", "dev") if f.subject == FACT.subject and f.attribute == "phone"
)


@lru_cache(maxsize=1)
def forgotten() -> Session:
    """A session with one active edit; whoever changes it puts it back."""
    home = tempfile.TemporaryDirectory(prefix="repair-test-")
    atexit.register(home.cleanup)
    session = Session(Patient.load(device="cpu"), home=Path(home.name) / "home")
    assert session.forget(QUESTION, ANSWER).status == "healed"
    return session


def ask(patient: Patient, question: str) -> str:
    return patient.reply([{"role": "user", "content": question}])
