"""What every data set is turned into: pairs, choices and texts, each with its provenance.

Knows no file format, no data set and no model.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from repair.errors import UsageError

Form = Literal["question", "blank", "continuation"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a record comes from, exactly enough to fetch the same bytes again.

    ``revision`` is what was asked for and ``commit`` what the Hub resolved it to; both are
    None for a local file. ``file`` is the path within the repository, or as the user gave it.
    ``sha256`` is that file's, in hexadecimal.
    """

    dataset: str
    config: str
    split: str
    file: str
    sha256: str
    revision: str | None = None
    commit: str | None = None

    def to_json(self) -> dict[str, str | None]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Record:
    """``id`` ends in the line of a text file, or in the row of a table, counted from 1."""

    id: str
    provenance: Provenance
    subject: str = ""

    @property
    def source(self) -> str:
        """The name of the data set."""
        return self.provenance.dataset

    @property
    def place(self) -> str:
        """``file:line``, for messages that must not repeat the text."""
        return f"{self.provenance.file}:{self.id.rpartition(':')[2]}"


@dataclass(frozen=True, kw_only=True)
class Pair(_Record):
    """A question and the answer that is to be forgotten or kept.

    ``paraphrases`` are other wordings of the question, ``answer_paraphrases`` of the answer;
    ``wrong_answers`` are false ones of the same shape, as the truth ratio needs them.
    ``form`` says what ``question`` is: a question, a sentence with a blank, or the beginning
    of a text. ``category`` is the data set's own, such as the type of an attack.
    ``truth`` is set where ``answer`` is a misconception.
    """

    question: str
    answer: str
    paraphrases: tuple[str, ...] = ()
    answer_paraphrases: tuple[str, ...] = ()
    wrong_answers: tuple[str, ...] = ()
    form: Form = "question"
    category: str = ""
    truth: str | None = None

    def to_choice(self) -> Choice:
        """The same as a choice: the answer among up to three wrong ones, in an order that
        the id alone decides.

        Raises:
            UsageError: the pair has no wrong answers.
        """
        wrong = [w for w in dict.fromkeys(self.wrong_answers) if w != self.answer]
        if not wrong:
            raise UsageError(f"{self.place}: a choice needs wrong answers, and there are none.")
        options = [self.answer, *wrong[: OPTIONS - 1]]
        random.Random(self.id).shuffle(options)
        truth = options.index(self.truth) if self.truth in options else None
        return Choice(
            id=self.id,
            provenance=self.provenance,
            subject=self.subject,
            question=self.question,
            options=tuple(options),
            index=options.index(self.answer),
            truth=truth,
        )


@dataclass(frozen=True, kw_only=True)
class Choice(_Record):
    """A question, its options, and the index of the one that counts as the answer.

    ``truth`` is set where ``index`` is a wrong label put there on purpose.
    """

    question: str
    options: tuple[str, ...]
    index: int
    truth: int | None = None

    @property
    def answer(self) -> str:
        return self.options[self.index]

    @property
    def prompt(self) -> str:
        """The question, the lettered options and "Answer:", to be continued by a letter."""
        lines = (f"{letter}. {text}" for letter, text in zip(LETTERS, self.options, strict=False))
        return "\n".join([self.question, *lines, "Answer:"])

    def to_pair(self) -> Pair:
        """The same in free form: the option's words are the answer, the others are wrong."""
        return Pair(
            id=self.id,
            provenance=self.provenance,
            subject=self.subject,
            question=self.question,
            answer=self.answer,
            wrong_answers=tuple(o for o in self.options if o != self.answer),
            truth=None if self.truth is None else self.options[self.truth],
        )

    def mislabelled(self, seed: int) -> Choice:
        """A copy with a wrong label, for the task of correcting misinformation.

        The label depends on the seed and the id alone.
        """
        wrong = [i for i, option in enumerate(self.options) if option != self.answer]
        if not wrong:
            raise UsageError(f"{self.place}: all options are the same.")
        index = random.Random(f"{seed} {self.id}").choice(wrong)
        return replace(self, index=index, truth=self.index)


@dataclass(frozen=True, kw_only=True)
class Text(_Record):
    """A passage, for perplexity, membership tests, or as a corpus."""

    passage: str


Record = Pair | Choice | Text


def as_pairs(records: Iterable[Record]) -> tuple[Pair, ...]:
    """All records in free form.

    Raises:
        UsageError: a passage stands among them; it has no question.
    """
    return tuple(_as_pair(record) for record in records)


def _as_pair(record: Record) -> Pair:
    if isinstance(record, Text):
        raise UsageError(
            f"{record.place}: a passage of {record.source} has no question.",
            "Choose a configuration with questions and answers.",
        )
    return record.to_pair() if isinstance(record, Choice) else record


def identity(dataset: str, config: str, split: str, sha256: str, number: int) -> str:
    """A record's id: the same for the same bytes on every machine, and unique across files."""
    name = "/".join(part for part in (dataset, config, split) if part)
    return f"{name}@{sha256[:8]}:{number}"
