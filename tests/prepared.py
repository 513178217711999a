"""What an edit of the tiny model needs, computed once for all tests, and homes that have it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from repair.patient import Patient
from repair.preparation import Preparation, compute, imagine, save
from repair.surgeon import Surgeon
from repair.types import Budget
from tests.conftest import build_tiny

# A model of random weights knows nothing that could be kept, so its edits need a wide budget.
WIDE = Budget(forget=1.0, prefix=1.0, neighbours=0.0, retain=0.0, kl=1e9, replacement=0.0)
# Nothing that changes a weight stays within this one.
NONE = Budget(forget=1.0, prefix=1.0, neighbours=0.0, retain=0.0, kl=0.0, replacement=0.0)


def tiny() -> Patient:
    """A new patient with the weights of the fixture ``tiny_patient``."""
    return Patient(*build_tiny("llama"), name="tiny")


@lru_cache(maxsize=1)
def preparation() -> Preparation:
    """The preparation of ``tiny()``, from less text than a real model gets."""
    patient = tiny()
    return compute(patient, imagine(patient, 8))


def prepared(home: Path, patient: Patient) -> Path:
    """``home`` with the preparation in its cache, as an earlier operation leaves it."""
    cache = home / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    save(preparation(), cache / f"{patient.content_hash}.safetensors", patient.content_hash)
    return home


def surgeon(patient: Patient, budget: Budget = WIDE) -> Surgeon:
    """A surgeon whose plans may do to ``patient`` what ``budget`` says."""
    return Surgeon(patient, budget=budget)
