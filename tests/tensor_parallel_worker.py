"""One of two processes that hold a part of every layer each; run by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer

from repair.patient import Patient
from repair.types import Edit
from tests.test_large import IDS, solved


def main(folder: Path, out: Path) -> None:
    factory: Any = AutoModelForCausalLM
    model = factory.from_pretrained(folder, tp_plan="auto", dtype=torch.float32)
    patient = Patient(model, AutoTokenizer.from_pretrained(folder), name="split")
    parts = patient.layers[0].weight
    before, updates = patient.forward(IDS), solved(patient)
    patient.apply([Edit(1, updates)])
    edited, said = patient.forward(IDS), patient.generate_ids([[1, 7, 8]], 6)
    patient.apply([])
    torch.save(
        {
            "columns": parts.shape[1],
            "updates": [(update.b, update.a) for update in updates],
            "edited": edited,
            "said": said,
            "undone": torch.equal(patient.forward(IDS), before),
        },
        out / f"{dist.get_rank()}.pt",
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
