"""What a patient's logits say of given answers: log-probabilities, hits, letters.

Knows how to put pairs to a patient in batches; knows no metric, and changes nothing: weights,
random state and generation settings are as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from repair.bench.metrics import vocabulary_moments
from repair.errors import NotFinite, UsageError
from repair.types import Message, Messages
from repair.verify import Answering

LETTERS = ("A", "B", "C", "D")
# Logits take rows × tokens × vocabulary × 4 bytes: 16 rows of 60 tokens in a vocabulary of
# 150,000 are 0.6 GB.
_BATCH = 16
_ASK_BATCH = 64


class Reading(Answering, Protocol):
    """The part of a patient that these measures need."""

    tokenizer: Any

    def prompt_ids(self, messages: Messages, prefix: str = "") -> list[int]:
        """Ids up to where the answer begins, then those of ``prefix``."""
        ...

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[list[int]]:
        """The ids generated after each prompt."""
        ...


@dataclass(frozen=True)
class AnswerTokens:
    """What a patient makes of one answer when all before each token is given (CPU, fp32).

    ``logprobs`` (T + e) has the T tokens of the answer and then, for a conversation, that of
    the end of the turn (e is 1, else 0). ``mean`` and ``deviation`` (T) are those of log p over
    the vocabulary, and ``hits`` (T, bool) tells where the token is the likeliest. Harnesses
    count the end of the turn in an answer's probability and nowhere else.
    """

    logprobs: Tensor
    mean: Tensor
    deviation: Tensor
    hits: Tensor

    @property
    def answer_logprobs(self) -> Tensor:
        """Log-probabilities (T) without the end of the turn."""
        return self.logprobs[: len(self.hits)]


@dataclass(frozen=True)
class _Row:
    """Token ids, the first that is scored, and the end of the answer without what closes it."""

    ids: list[int]
    first: int
    end: int


def answer_tokens(
    patient: Reading,
    pairs: Sequence[tuple[str | None, str]],
    *,
    batch: int = _BATCH,
) -> list[AnswerTokens]:
    """Score each (question, answer) in one forward pass per batch, in the order given.

    A question of None scores a raw text: its tokens as the tokenizer writes them, without a
    chat template, from the second on (nothing comes before the first).

    Raises:
        UsageError: an answer without a token to score, or one longer than the model reads.
        NotFinite: the patient's logits are NaN or infinite.
    """
    rows = [_row(patient, question, answer) for question, answer in pairs]
    found = {i: _read(logits, rows[i]) for i, logits in _logits(patient, rows, batch)}
    return [found[index] for index in range(len(rows))]


def letter_logprobs(
    patient: Reading,
    prompts: Sequence[str],
    *,
    letters: Sequence[str] = LETTERS,
    chat: bool = True,
    batch: int = _BATCH,
) -> list[list[float]]:
    """Log-likelihood of every letter after each prompt, which ends in "Answer:".

    With ``chat`` the prompt is a user's message and the letter the start of the answer;
    otherwise both are one raw text, " A" after the prompt, as harnesses of base models do.
    Letters of one token each, the usual case, take one forward pass for all of them.

    Raises:
        UsageError: no letters, an empty prompt, or one longer than the model reads.
        NotFinite: the patient's logits are NaN or infinite.
    """
    if not letters or not all(letters):
        raise UsageError("Multiple choice needs at least one letter.")
    rows = [_option(patient, prompt, letter, chat) for prompt in prompts for letter in letters]
    found = {
        i: float(_logprobs(logits, rows[i]).sum()) for i, logits in _logits(patient, rows, batch)
    }
    width = len(letters)
    return [[found[width * i + j] for j in range(width)] for i in range(len(prompts))]


def continuations(
    patient: Reading, prompts: Sequence[str], *, max_new_tokens: int = 128, batch: int = _BATCH
) -> list[str]:
    """Greedy continuations of raw texts, written without a chat template, stripped.

    Raises:
        UsageError: a prompt without tokens, or one longer than the model reads.
    """
    rows = [list(patient.tokenizer(prompt).input_ids) for prompt in prompts]
    if not all(rows):
        raise UsageError("A text to continue is empty.")
    found: list[str] = []
    for start in range(0, len(rows), batch):
        for ids in patient.generate_ids(rows[start : start + batch], max_new_tokens):
            found.append(str(patient.tokenizer.decode(ids, skip_special_tokens=True)).strip())
    return found


def replies(
    patient: Answering,
    conversations: Sequence[Messages],
    *,
    prefixes: Sequence[str] | None = None,
    max_new_tokens: int = 64,
    batch: int = _ASK_BATCH,
) -> list[str]:
    """The patient's greedy replies to many conversations, after each prefix, in batches."""
    starts = [""] * len(conversations) if prefixes is None else prefixes
    found: list[str] = []
    for start in range(0, len(conversations), batch):
        part = slice(start, start + batch)
        found += patient.replies(
            conversations[part], prefixes=starts[part], max_new_tokens=max_new_tokens
        )
    return found


def user(question: str) -> list[Message]:
    """A conversation of one user turn."""
    return [{"role": "user", "content": question}]


def _row(patient: Reading, question: str | None, answer: str) -> _Row:
    if question is None:
        ids = list(patient.tokenizer(answer).input_ids)
        row = _Row(ids, 1, len(ids))
    else:
        ids, first = patient.encode(user(question), answer)
        row = _Row(ids, max(first, 1), len(patient.prompt_ids(user(question), answer)))
    if row.end <= row.first:
        raise UsageError("An answer to be scored has no tokens.", "Leave it out.")
    return row


def _option(patient: Reading, prompt: str, letter: str, chat: bool) -> _Row:
    if not prompt.strip():
        raise UsageError("A multiple-choice question is empty.")
    if chat:
        first = len(patient.prompt_ids(user(prompt)))
        ids = patient.prompt_ids(user(prompt), letter)
    else:
        start = list(patient.tokenizer(prompt).input_ids)
        first = len(start)
        ids = [*start, *patient.tokenizer(f" {letter}", add_special_tokens=False).input_ids]
    return _Row(ids, first, len(ids))


def _logits(patient: Reading, rows: Sequence[_Row], batch: int) -> Iterator[tuple[int, Tensor]]:
    """(index, logits where its scored tokens are predicted) of every row, shortest first.

    Batches hold rows of similar length, because padding costs as much as text. Rows that
    differ in their last token alone, as letters do, are read once: it predicts nothing.
    """
    contexts: dict[tuple[int, ...], list[int]] = {}
    for index in sorted(range(len(rows)), key=lambda i: len(rows[i].ids)):
        contexts.setdefault(tuple(rows[index].ids[:-1]), []).append(index)
    distinct = list(contexts)
    for start in range(0, len(distinct), batch):
        chunk = distinct[start : start + batch]
        for context, logits in zip(chunk, patient.forward(chunk), strict=True):
            for index in contexts[context]:
                # Position i predicts token i + 1.
                yield index, logits[rows[index].first - 1 : len(context)]


def _logprobs(logits: Tensor, row: _Row) -> Tensor:
    """Log-probabilities of the row's scored tokens from their logits, on the CPU."""
    tokens = torch.tensor(row.ids[row.first :], device=logits.device).unsqueeze(-1)
    logprobs = log_softmax(logits, dim=-1).gather(-1, tokens).squeeze(-1).cpu()
    if not bool(logprobs.isfinite().all()):
        raise NotFinite("The patient's predictions are no longer finite.", "Undo the edit.")
    return logprobs


def _read(logits: Tensor, row: _Row) -> AnswerTokens:
    logprobs, answer = _logprobs(logits, row), logits[: row.end - row.first]
    mean, deviation = vocabulary_moments(answer)
    hits = answer.argmax(-1).cpu() == torch.tensor(row.ids[row.first : row.end])
    return AnswerTokens(logprobs, mean.cpu(), deviation.cpu(), hits)
