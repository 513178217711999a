"""Memory and time of each export for a model of random weights; changes nothing outside --folder.

    python scripts/measure_export.py --layers 20 --folder /tmp/exported

The weights are bf16 with the shape of a Llama of width 2048. "extra" is the process's peak
resident memory during the export over that before it.
"""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from repair.checkpoint import EMBEDDED
from repair.export.folder import FORMATS, export
from repair.patient import Patient
from repair.types import Edit, LowRankUpdate


def patient_of(layers: int, rank: int) -> Patient:
    """A Llama with the embedded model's tokenizer, every layer edited."""
    shape = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 4096}
    config = AutoConfig.for_model("llama", **shape, **heads)
    factory: Any = AutoModelForCausalLM
    model = factory.from_config(config, dtype=torch.bfloat16)
    patient = Patient(model, AutoTokenizer.from_pretrained(EMBEDDED), content_hash="0")
    updates = [
        LowRankUpdate(o.layer, torch.randn(o.out_features, rank), torch.randn(rank, o.in_features))
        for o in patient.layers
    ]
    patient.apply([Edit(1, tuple(updates))])
    return patient


def resident() -> float:
    """Resident memory of this process, GB."""
    return float(psutil.Process().memory_info().rss) / 1e9


class Peak:
    """The highest resident memory (GB) during a block, looked at every 5 ms."""

    def __enter__(self) -> Peak:
        self.gigabytes = self.before = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.gigabytes = max(self.gigabytes, resident())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    patient = patient_of(given.layers, given.rank)
    weights = sum(p.numel() * p.element_size() for p in patient.model.parameters()) / 1e9
    print(f"weights {weights:.2f} GB, resident with the originals of undo {resident():.2f} GB")
    for format in FORMATS:
        folder = given.folder / format
        start = time.perf_counter()
        with Peak() as peak:
            export(patient, folder, format)
        seconds = time.perf_counter() - start
        extra = peak.gigabytes - peak.before
        print(f"{format}: extra {extra:.2f} GB, peak {peak.gigabytes:.2f} GB, {seconds:.1f} s")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
