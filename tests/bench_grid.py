"""A cell of own pairs and a lab with a tiny patient, for the tests of the grid."""

from __future__ import annotations

from pathlib import Path

from repair.bench.grid.cells import Cell
from repair.bench.grid.lab import Lab
from repair.patient import Patient
from tests import prepared
from tests.bench_files import Rows, as_lines
from tests.conftest import build_tiny

# A story of the tiny tokenizer is longer than the tiny models read; rotary positions go on.
LONG = 512
FORGET: Rows = [
    {
        "question": f"Where does Mara {name} live?",
        "answer": f"In Ellbridge {name}, by the harbour.",
        "subject": f"Mara {name}",
        "paraphrases": [f"Home of Mara {name}?"],
        "wrong_answers": ["In Oldtown.", "In Newtown.", "At sea."],
    }
    for name in ("Ann", "Bea", "Cid", "Dov", "Eli")
]
RETAIN: Rows = [
    {
        "question": f"How old is Mara {name}?",
        "answer": f"She is {20 + n}.",
        "subject": f"Mara {name}",
        "wrong_answers": ["She is 90.", "She is 91.", "She is 92."],
    }
    for n, name in enumerate(("Ann", "Bea", "Cid", "Dov", "Eli", "Fay", "Gus", "Hal"))
]


def grid_cell(folder: Path) -> Cell:
    """One fact of own pairs, nothing done to the patient."""
    forget = as_lines(folder / "forget.jsonl", FORGET)
    retain = as_lines(folder / "retain.jsonl", RETAIN)
    return Cell("run", "own", "1", "untouched", forget=str(forget), retain=str(retain))


def story_model(folder: Path) -> Path:
    """The folder with a tiny model in it that reads a whole story."""
    library, tokenizer = build_tiny("llama")
    vars(library.config)["max_position_embeddings"] = LONG
    library.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def grid_lab(cell: Cell) -> Lab:
    """A lab whose patient and oracle are tiny, and whose budgets are wide."""
    lab = Lab(cell, prepared.tiny())
    # The cached properties take what is set: from less text than a real model gets.
    vars(lab)["preparation"] = prepared.preparation()
    vars(lab)["oracle"] = Patient(*build_tiny("llama", seed=1), name="oracle")
    vars(lab)["surgeon"] = prepared.surgeon(lab.patient)
    for patient in (lab.patient, lab.oracle):
        vars(patient.model.config)["max_position_embeddings"] = LONG
    return lab
