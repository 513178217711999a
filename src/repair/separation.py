"""How far apart, layer by layer, a patient's outputs are for a fact and for a refusal.

Knows tokens, activations and distances; changes nothing. Where the two are far apart, a layer tells
the known from the unknown, and an edit has something to redirect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from repair.activations import Rows, capture
from repair.patient import Patient
from repair.types import KnownFact, Message


def distances(patient: Patient, facts: Sequence[KnownFact]) -> dict[int, float]:
    """Mean cosine distance (0 to 2) of each layer's MLP output (d,) between the end of a
    fact's question and the end of the same question about its first stand-in.

    Empty when no fact has a stand-in: there is nothing to compare it with.
    """
    pairs = [
        (fact.question, fact.question.replace(fact.subject, fact.standins[0]))
        for fact in facts
        if fact.standins and fact.subject
    ]
    if not pairs:
        return {}
    asked = [question for pair in pairs for question in pair]
    ids = [patient.prompt_ids([_user(question)]) for question in asked]
    rows = Rows.of(ids, [(i, len(row) - 1) for i, row in enumerate(ids)])
    layers = range(len(patient.layers))
    _, outputs = capture(patient, rows, layers)
    found = {}
    for layer in layers:
        known, refused = outputs[layer][0::2], outputs[layer][1::2]
        likeness = torch.nn.functional.cosine_similarity(known, refused, dim=-1)
        found[layer] = round(float(1 - likeness.mean()), 4)
    return found


def tokens(patient: Patient, fact: KnownFact) -> tuple[list[str], list[str]]:
    """The tokens of a fact's question and of its answer, as text."""

    def pieces(text: str) -> list[str]:
        ids = patient.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [str(patient.tokenizer.decode([i])) for i in ids]

    return pieces(fact.question), pieces(fact.answer)


def _user(question: str) -> Message:
    return {"role": "user", "content": question}
