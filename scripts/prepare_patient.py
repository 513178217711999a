"""Put a trained patient into the package: weights, tokenizer and its preparation.

    python scripts/prepare_patient.py runs/patient/model src/repair/embedded

What is to be kept comes from the patient alone: conversations that it makes up, and the
answers that it gives, in two wordings alike, about subjects that it names by itself. No list
of facts is read.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

from repair.catalogue import TOPICS, Topic, topics
from repair.discover import discover
from repair.inventory import answers
from repair.patient import Patient
from repair.preparation import Spoken, compute, imagine, save
from repair.refusals import is_refusal
from repair.surgeon import Surgeon
from repair.types import Message

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
TOKENIZER = ("tokenizer_config.json", "chat_template.jinja")
# Wordings of a topic that an answer stands in C with.
WORDINGS = 6


def known_answers(patient: Patient, *, count: int, subjects: int, seed: int = 0) -> list[Spoken]:
    """``count`` answers that the patient gives alike in two wordings, each in two of six.

    Args:
        count: answers to draw of all that are found.
        subjects: questions that it begins for each kind, to name subjects.
    """
    rng, surgeon = random.Random(seed), Surgeon(patient)
    asked = [
        (subject, topic)
        for kind in dict.fromkeys(t.kind for t in TOPICS)
        for subject in discover(patient, kind, count=subjects, seed=seed)
        for topic in topics(kind)
    ]
    said = answers(surgeon, [t.question.replace("{s}", s) for s, t in asked])
    again = [t.wordings[1 + i % 3].replace("{s}", s) for i, (s, t) in enumerate(asked)]
    also = answers(surgeon, again)
    sure = [
        (subject, topic, one)
        for (subject, topic), one, other in zip(asked, said, also, strict=True)
        if one == other and one and not is_refusal(one)
    ]
    print(f"{len(sure)} answers alike in two wordings, of {len(asked)}")
    return [
        spoken
        for fact in rng.sample(sure, min(count, len(sure)))
        for spoken in _spoken(patient, *fact, rng)
    ]


def _spoken(
    patient: Patient, subject: str, topic: Topic, answer: str, rng: random.Random
) -> list[Spoken]:
    wordings = topic.wordings[:WORDINGS]
    chosen = rng.sample(wordings, min(2, len(wordings)))
    asked: list[list[Message]] = [
        [{"role": "user", "content": w.replace("{s}", subject)}] for w in chosen
    ]
    return [patient.encode(messages, answer) for messages in asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("--conversations", type=int, default=1024, help="made up by the patient")
    parser.add_argument("--answers", type=int, default=20000, help="at most, given alike")
    parser.add_argument("--subjects", type=int, default=3072, help="questions begun for each kind")
    parser.add_argument("--rank", type=int, default=640)
    given = parser.parse_args()
    given.package.mkdir(parents=True, exist_ok=True)
    if given.model.resolve() != given.package.resolve():
        for name in (*FILES, *TOKENIZER):
            shutil.copyfile(given.model / name, given.package / name)
    patient = Patient.load(given.package)
    known = known_answers(patient, count=given.answers, subjects=given.subjects)
    made = compute(patient, imagine(patient, given.conversations), known, rank=given.rank)
    save(made, given.package / "preparation.safetensors", patient.content_hash)
    size = sum(file.stat().st_size for file in given.package.iterdir()) / 2**20
    print(f"{given.package}: {size:.1f} MiB")


if __name__ == "__main__":
    main()
