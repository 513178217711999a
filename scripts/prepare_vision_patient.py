"""Put a trained vision patient into the package, with what edits need to know of it.

The keys to keep come from drawings of the people who are only ever kept, of strangers, and from
questions in words; nobody of the forget pool is among them.

    python scripts/prepare_vision_patient.py runs/vision/model src/repair/embedded_vision
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

from repair.catalogue import topics
from repair.patient import Patient
from repair.pictures import of
from repair.preparation import Spoken, compute, save
from repair.sights import PERSON, VIEW
from repair.types import Message
from repair.world.albums import REFUSAL, TOLD
from repair.world.faces import HELD_OUT_DRAWINGS, draw, people, stranger

FILES = (
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja", "processor_config.json",
)  # fmt: skip


def asked(patient: Patient, seed: int, drawings: int = 3) -> list[tuple[str, str]]:
    """(question, answer) pairs of those who are kept and of strangers."""
    rng, found = random.Random(seed), []
    told = [t for t in topics("person") if t.attribute in TOLD]
    for person in (p for p in people() if p.split == "retain"):
        for _ in range(drawings):
            shown = patient.show(of(draw(person.look, rng.randrange(HELD_OUT_DRAWINGS))))
            found += [(f"{shown} {s.question}", person.facts[s.attribute]) for s in PERSON]
            found += [(f"{shown} {s.question}", person.view[s.attribute]) for s in VIEW]
        for topic in told:
            wordings = rng.sample(topic.wordings, 3)
            found += [
                (w.replace("{s}", person.name), person.facts[topic.attribute]) for w in wordings
            ]
    for _ in range(20):
        shown = patient.show(of(draw(stranger(rng), rng.randrange(HELD_OUT_DRAWINGS))))
        found += [(f"{shown} {s.question}", REFUSAL) for s in PERSON]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("package", type=Path)
    given = parser.parse_args()
    given.package.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(given.model / name, given.package / name)
    patient = Patient.load(given.package)
    spoken: list[Spoken] = []
    for question, answer in asked(patient, 0):
        messages: list[Message] = [{"role": "user", "content": question}]
        spoken.append(patient.encode(messages, answer))
    made = compute(patient, spoken, rank=256)
    save(made, given.package / "preparation.safetensors", patient.content_hash)
    size = sum(file.stat().st_size for file in given.package.iterdir()) / 2**20
    print(f"{given.package}: {size:.1f} MiB")


if __name__ == "__main__":
    main()
