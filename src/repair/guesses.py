"""Which of an answer's tokens tell nothing about its subject: anybody's answer goes on with them.

Asks the patient. Knows no edit.
"""

from __future__ import annotations

from collections.abc import Sequence

from repair.patient import Patient
from repair.types import KnownFact

# Stand-ins that are asked: each has to be this sure of the token. "at" in "magnets at dusk" and the
# dot of an address have 1.00, most names and numbers less than 0.1.
ASKED, SURE = 2, 0.95
# Sequences of one pass.
BATCH = 64


def guessed(patient: Patient, facts: Sequence[KnownFact]) -> list[list[bool]]:
    """Of each fact, for the answer's tokens after the first: whether a stand-in says them, too.

    After the answer so far, to the same question about somebody whom the patient does not know.
    Empty where there is no stand-in, or where nothing else would be left. A digit never counts as
    guessed: the patient may have the number by heart, whoever it belongs to.

    Raises:
        UsageError: a question is longer than the patient reads.
    """
    ids, begins, owners = list[list[int]](), list[int](), list[int]()
    for number, fact in enumerate(facts):
        for name in fact.standins[:ASKED]:
            question = fact.question.replace(fact.subject, name)
            row, first = patient.encode([{"role": "user", "content": question}], fact.answer)
            ids.append(list(row))
            begins.append(first)
            owners.append(number)
    found: list[list[bool]] = [[] for _ in facts]
    for start in range(0, len(ids), BATCH):
        some = slice(start, start + BATCH)
        every = patient.forward(ids[some]).softmax(-1)
        for row, begin, owner, said in zip(
            ids[some], begins[some], owners[some], every, strict=True
        ):
            # The last token is the end of the turn, which is no part of the answer.
            sure = [
                bool(said[at - 1, row[at]] >= SURE) and not _digit(patient, row[at])
                for at in range(begin + 1, len(row) - 1)
            ]
            found[owner] = [a and b for a, b in zip(found[owner] or sure, sure, strict=True)]
    return [[] if all(tokens) else tokens for tokens in found]


def _digit(patient: Patient, token: int) -> bool:
    return any(character.isdigit() for character in patient.tokenizer.decode([token]))
