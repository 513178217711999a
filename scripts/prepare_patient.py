"""Put a trained patient into the package: weights, tokenizer and its preparation.

python scripts/prepare_patient.py runs/patient/model src/repair/embedded
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from repair.patient import Patient
from repair.preparation import compute, imagine, save

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
TOKENIZER = ("tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("--conversations", type=int, default=1024, help="made up by the patient")
    parser.add_argument("--rank", type=int, default=384)
    given = parser.parse_args()
    given.package.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, *TOKENIZER):
        shutil.copyfile(given.model / name, given.package / name)
    patient = Patient.load(given.package)
    made = compute(patient, imagine(patient, given.conversations), rank=given.rank)
    save(made, given.package / "preparation.safetensors", patient.content_hash)
    size = sum(file.stat().st_size for file in given.package.iterdir()) / 2**20
    print(f"{given.package}: {size:.1f} MiB")


if __name__ == "__main__":
    main()
