"""What a cell forgets, what it may train on, and what is asked afterwards, as plain pairs.

Knows data sets and the patient's own answers; knows no method and no measure.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repair.bench.datasets.data import (
    EMBEDDED,
    check_disjoint,
    load,
    load_pairs,
    names,
    provenances,
)
from repair.bench.datasets.records import Pair, as_pairs
from repair.bench.grid.cells import Cell
from repair.bench.likelihood import replies, user
from repair.bench.suite import MAX_NEW_TOKENS
from repair.errors import UsageError
from repair.patient import Patient
from repair.verify import rouge_l_recall

# Retain pairs that a method may train on: as many as it forgets, and a whole batch at least.
LEAST_BUFFER = 32
# Pairs that are scored for each set of forgotten facts.
RETAIN, RETAIN_OF_ONE, NEIGHBOURS = 60, 24, 20
_BATCH = 64


@dataclass(frozen=True)
class Work:
    """One set of facts to forget from the untouched patient.

    ``buffer`` is what a method may train on besides, ``retain`` and ``neighbours`` (other
    facts about the same subjects) are only asked; none of the three shares a question.
    """

    forget: tuple[Pair, ...]
    buffer: tuple[Pair, ...]
    retain: tuple[Pair, ...]
    neighbours: tuple[Pair, ...]


def works(cell: Cell, patient: Patient) -> list[Work]:
    """The sets of one cell, the same for every method.

    Of the embedded patient's tasks only facts that it gives in full can be forgotten.

    Raises:
        UsageError: a file that is broken, an empty split, fewer facts than the size needs.
    """
    forget, retain, subjects = _pools(cell)
    rng = random.Random(f"{cell.seed} {cell.task}")
    forget, retain = rng.sample(forget, len(forget)), rng.sample(retain, len(retain))
    needed = len(forget) if cell.size == "full" else int(cell.size) * cell.repeats
    if cell.limit and cell.size == "full":
        needed = min(needed, cell.limit)
    facts = _first_known(patient, forget, needed) if cell.forget is None else forget[:needed]
    size = len(facts) if cell.size == "full" else int(cell.size)
    if not facts or len(facts) < size:
        raise UsageError(
            f"The split {cell.split} of {cell.task} has {len(facts)} facts that the patient knows.",
            f"A set of {cell.size} needs more.",
        )
    sets = [tuple(facts[i : i + size]) for i in range(0, len(facts) - size + 1, size)]
    return [_work(chosen, retain, subjects, index) for index, chosen in enumerate(sets)]


def read_pairs(source: str) -> tuple[Pair, ...]:
    """A user's file of pairs, or a data set as ``NAME[/CONFIG[/SPLIT]]``.

    Raises:
        UsageError: neither a file nor a known data set, or a broken line, by its number.
    """
    if Path(source).expanduser().exists() or source.split("/", maxsplit=1)[0] not in names():
        return load_pairs(source)
    name, config, split = [*source.split("/"), None, None][:3]
    return as_pairs(load(str(name), config, split))


def provenance_of(cell: Cell) -> dict[str, str]:
    """SHA-256 by file of what a cell reads besides the embedded patient's tasks.

    Raises:
        UsageError: a file that is broken, an empty set, or pairs that stand in both.
    """
    if cell.forget is None and cell.retain is None:
        return {}
    forget, retain, _ = _pools(cell)
    return {origin.file: origin.sha256 for origin in provenances([*forget, *retain])}


def _pools(cell: Cell) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """Pairs to forget, pairs to keep, and all pairs whose subjects tell who is a neighbour."""
    if (cell.forget is None) != (cell.retain is None):
        raise UsageError("A forget set needs a retain set beside it.", "Give both files.")
    if cell.forget is not None and cell.retain is not None:
        forget, retain = list(read_pairs(cell.forget)), list(read_pairs(cell.retain))
        check_disjoint(forget, retain)
        return forget, retain, retain
    every = [pair for pair in load(EMBEDDED, cell.task) if isinstance(pair, Pair)]
    return (
        [pair for pair in every if pair.provenance.split == cell.split],
        [pair for pair in every if pair.provenance.split == "retain"],
        every,
    )


def _work(
    forget: tuple[Pair, ...], retain: Sequence[Pair], every: Sequence[Pair], index: int
) -> Work:
    gone = {pair.id for pair in forget}
    names_gone = {pair.subject for pair in forget if pair.subject}
    beside = [pair for pair in every if pair.subject in names_gone and pair.id not in gone]
    neighbours = random.Random(index).sample(beside, min(NEIGHBOURS, len(beside)))
    apart = [pair for pair in retain if pair.subject not in names_gone] or list(retain)
    # The buffer and what is scored part, where there is more than one pair to keep.
    reach = min(max(LEAST_BUFFER, len(forget)), max(1, len(apart) // 2))
    rest = apart[reach:] or apart
    count = min(RETAIN_OF_ONE if len(forget) == 1 else RETAIN, len(rest))
    start = index * count % len(rest)
    scored = [*rest[start:], *rest[:start]][:count]
    return Work(forget, tuple(apart[:reach]), tuple(scored), tuple(neighbours))


def _first_known(patient: Patient, pool: Sequence[Pair], count: int) -> list[Pair]:
    found: list[Pair] = []
    for group in _groups(pool):
        said = replies(patient, [user(p.question) for p in group], max_new_tokens=MAX_NEW_TOKENS)
        found += [
            pair
            for pair, reply in zip(group, said, strict=True)
            if rouge_l_recall(pair.answer, reply) >= 1.0
        ]
        if len(found) >= count:
            break
    return found[:count]


def _groups(pool: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    for start in range(0, len(pool), _BATCH):
        yield pool[start : start + _BATCH]
