"""Put a trained vision patient into the package, with what edits need to know of it.

The keys to keep come from drawings of the people who are only ever kept, of strangers, and from
questions in words; nobody of the forget pool is among them.

    python scripts/prepare_vision_patient.py runs/vision/model src/repair/embedded_vision
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from repair.patient import Patient
from repair.pictures import of
from repair.preparation import Spoken, compute, save
from repair.sights import PERSON, VIEW
from repair.types import Message
from repair.world.albums import REFUSAL, TOLD, Album, Lesson
from repair.world.faces import HELD_OUT_DRAWINGS, Person, people, stranger, unknown_name

# Each of the people who are kept is drawn so often, and asked about so often in words.
DRAWINGS = 12
STRANGERS = 120
RANK = 384
FILES = (
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json", "chat_template.jinja", "processor_config.json",
)  # fmt: skip


def asked(patient: Patient, seed: int) -> list[tuple[str, str]]:
    """(question, answer) pairs about those who are kept and about strangers, worded as trained."""
    album, found = Album(seed), []
    kept = [person for person in people() if person.split == "retain"]
    for person in kept:
        for _ in range(DRAWINGS):
            shown = _shown(patient, Lesson("", "", person.look, _seed(album)))
            found += [(f"{shown} {album.shown(s)}", person.facts[s.attribute]) for s in PERSON]
            found += [(f"{shown} {album.shown(s)}", person.view[s.attribute]) for s in VIEW]
        for attribute in TOLD:
            questions = [album.told(attribute, person.name) for _ in range(DRAWINGS)]
            found += [(question, person.facts[attribute]) for question in questions]
    for _ in range(STRANGERS):
        nobody = Person({}, stranger(album.rng), "retain")
        shown = _shown(patient, Lesson("", "", nobody.look, _seed(album)))
        found += [(f"{shown} {album.shown(s)}", REFUSAL) for s in PERSON]
        found += [(f"{shown} {album.shown(s)}", nobody.view[s.attribute]) for s in VIEW]
        found += [(album.told(a, unknown_name(album.rng)), REFUSAL) for a in TOLD]
    for person in kept:
        shown = _shown(patient, Lesson("", "", person.look, _seed(album), blurred=True))
        found += [(f"{shown} {album.shown(s)}", REFUSAL) for s in PERSON]
    return found


def _seed(album: Album) -> int:
    return album.rng.randrange(HELD_OUT_DRAWINGS)


def _shown(patient: Patient, lesson: Lesson) -> str:
    """The reference of a lesson's picture."""
    drawn = lesson.picture()
    if drawn is None:
        raise ValueError("a lesson in words has no picture")
    return patient.show(of(drawn))


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
    made = compute(patient, spoken, rank=RANK)
    save(made, given.package / "preparation.safetensors", patient.content_hash)
    size = sum(file.stat().st_size for file in given.package.iterdir()) / 2**20
    print(f"{given.package}: {size:.1f} MiB")


if __name__ == "__main__":
    main()
