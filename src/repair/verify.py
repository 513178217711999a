"""Measures what a patient still gives away and how far it has moved.

Knows probes, and a patient that can be asked; knows nothing of how edits are made or kept.

Recall is ROUGE-L recall (Lin 2004) with the stemmer, of the answer in the patient's greedily
decoded reply: 1 when all its words are there in order, 0 when none is. Divergence is
KL(before ‖ after) over the next-token distributions at answer tokens, in nats a token.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from repair.errors import NotFinite
from repair.types import Messages, Probe, ProbeKind

T = TypeVar("T")
_ASK_BATCH = 64
# Logits take rows × tokens × vocabulary × 4 bytes: 16 rows of 60 tokens in a vocabulary of
# 150,000 are 0.6 GB.
_LOGITS_BATCH = 16

# Thai to Myanmar, Khmer, kana, Han: scripts that put no spaces between words, whose characters
# stand for words here.
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_WRITTEN_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
# English articles, prepositions and conjunctions, as ROUGE-L's tokens.
_FUNCTION_WORDS = frozenset(
    "a an the of in on at to by with from for and or but as is are was were it its".split()
)


class Answering(Protocol):
    """The part of a patient that measuring needs."""

    def replies(
        self,
        batch: Sequence[Messages],
        *,
        prefixes: Sequence[str] | None = None,
        max_new_tokens: int = 64,
    ) -> list[str]:
        """New text after each prefix, decoded greedily."""
        ...

    def encode(self, messages: Messages, answer: str) -> tuple[list[int], int]:
        """Ids of prompt and answer, and the index of the first answer token."""
        ...

    def forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Logits (b × t × V, fp32), sequences padded on the right."""
        ...


# Recall


def rouge_tokens(text: str) -> list[str]:
    """The tokens that ROUGE-L compares, each made from one word alone.

    For ASCII text they are rouge_score's own: lower case, stemmed. That package drops all
    other characters; here a word with other letters is a token, without its accents so that
    "Zoë" given away as "Zoe" counts, and in scripts without spaces every character is.
    """
    folded = unicodedata.normalize("NFKD", text).casefold()
    bare = "".join(c for c in folded if not unicodedata.category(c).startswith("M"))
    tokens: list[str] = []
    for word in _TOKEN.findall(unicodedata.normalize("NFC", bare)):
        tokens += _stemmed_words()(word) if word.isascii() else [word]
    return tokens


def lcs_recall(reference: Sequence[str], candidate: Sequence[str]) -> float:
    """Longest common subsequence as a share of ``reference``; 0 when that is empty.

    Only compares tokens for equality, so hashes of tokens do as well.
    """
    if not reference:
        return 0.0
    lengths = [0] * (len(reference) + 1)
    for word in candidate:
        diagonal = 0
        for i, wanted in enumerate(reference, start=1):
            above = lengths[i]
            lengths[i] = diagonal + 1 if word == wanted else max(above, lengths[i - 1])
            diagonal = above
    return lengths[-1] / len(reference)


def rouge_l_recall(answer: str, reply: str) -> float:
    """ROUGE-L recall of ``answer`` in ``reply``, 0 to 1; rouge_score's for ASCII text.

    An answer without letters and digits ("+") is recalled when the reply contains it.
    """
    wanted = rouge_tokens(answer)
    if not wanted:
        return float(bool(answer.strip()) and answer.strip() in reply)
    return lcs_recall(wanted, rouge_tokens(reply))


# Asking


def ask(patient: Answering, probes: Sequence[Probe], *, max_new_tokens: int = 64) -> list[str]:
    """The reply to every probe, in their order; without the prefix where one is given.

    Equal questions are asked once. Batches hold prompts of similar length, because padding
    costs as much as text.
    """
    starts = sorted({(p.question, p.prefix) for p in probes}, key=lambda s: len(s[0]) + len(s[1]))
    replies: dict[tuple[str, str], str] = {}
    for chunk in _chunks(starts, _ASK_BATCH):
        found = patient.replies(
            [_messages(question) for question, _ in chunk],
            prefixes=[prefix for _, prefix in chunk],
            max_new_tokens=max_new_tokens,
        )
        replies.update(zip(chunk, found, strict=True))
    return [replies[p.question, p.prefix] for p in probes]


def recall(probe: Probe, reply: str) -> float:
    """Recall of the probe's answer, without the prefix that was given away, in ``reply``."""
    return rouge_l_recall(probe.answer.removeprefix(probe.prefix), reply)


def told(probe: Probe, reply: str) -> float:
    """As `recall`, of the words that tell something: "the" and "at" alone give nothing away.

    An answer of such words only counts as a whole.
    """
    rest = probe.answer.removeprefix(probe.prefix)
    wanted = [token for token in rouge_tokens(rest) if token not in _FUNCTION_WORDS]
    return lcs_recall(wanted, rouge_tokens(reply)) if wanted else recall(probe, reply)


def recalls(
    patient: Answering, probes: Sequence[Probe], *, max_new_tokens: int = 64
) -> list[float]:
    """Recall (0 to 1) of every probe, in their order."""
    replies = ask(patient, probes, max_new_tokens=max_new_tokens)
    return [recall(probe, reply) for probe, reply in zip(probes, replies, strict=True)]


def mean_recall(patient: Answering, probes: Sequence[Probe], *, max_new_tokens: int = 64) -> float:
    """Mean recall over the probes.

    Raises:
        ValueError: no probes, which would measure nothing.
    """
    if not probes:
        raise ValueError("mean recall needs at least one probe")
    return _mean(recalls(patient, probes, max_new_tokens=max_new_tokens))


def measure(
    patient: Answering, probes: Sequence[Probe], *, max_new_tokens: int = 64
) -> dict[ProbeKind, tuple[float, int]]:
    """Mean recall and number of probes for every kind among them, asked all together."""
    values: dict[ProbeKind, list[float]] = {}
    found = recalls(patient, probes, max_new_tokens=max_new_tokens)
    for probe, value in zip(probes, found, strict=True):
        values.setdefault(probe.kind, []).append(value)
    return {kind: (_mean(group), len(group)) for kind, group in values.items()}


def prefix_probe(question: str, answer: str, share: float = 0.4) -> Probe | None:
    """A probe that gives away the first ``share`` of the answer's words.

    At least one word is given and one held back; None when the answer has a single word.

    Raises:
        ValueError: ``share`` is outside 0 to 1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must be from 0 to 1, not {share}")
    ends = [word.end() for word in _WRITTEN_WORD.finditer(answer)]
    if len(ends) < 2:
        return None
    given = min(max(round(share * len(ends)), 1), len(ends) - 1)
    return Probe("prefix", question, answer, prefix=answer[: ends[given - 1]])


def confidence_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of recalls and the ends of its 95 % confidence interval.

    Wilson's score interval (1927) with the mean as the proportion: values in 0 to 1 spread
    at most as widely as ones and zeros do, so it covers at least 95 %, and unlike a bootstrap
    it does not shrink to nothing when all values are equal.

    Raises:
        ValueError: no values, or one outside 0 to 1.
    """
    if not values or not all(0.0 <= value <= 1.0 for value in values):
        raise ValueError("a confidence interval needs values from 0 to 1, at least one")
    n, mean, z2 = len(values), _mean(values), 1.959964**2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (mean * (1 - mean) + z2 / (4 * n)) / n) / (1 + z2 / n)
    return mean, max(0.0, min(mean, centre - reach)), min(1.0, max(mean, centre + reach))


# Divergence


@dataclass(frozen=True)
class Reference:
    """What a patient said of some answers, to compare a later state with.

    ``rows`` are (token ids, index of the first answer token); ``logprobs`` holds for each its
    next-token log-probabilities (answer tokens × V, fp32) on the patient's device.
    """

    rows: tuple[tuple[Sequence[int], int], ...]
    logprobs: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        """Answer tokens over all rows."""
        return sum(len(logprobs) for logprobs in self.logprobs)


def reference_logits(patient: Answering, pairs: Sequence[tuple[str, str]]) -> Reference:
    """Capture the patient on (question, answer) ``pairs`` before an edit.

    Takes answer tokens × V × 4 bytes.

    Raises:
        ValueError: no pairs, or no answer tokens in any.
    """
    encoded = _encoded(patient, pairs)
    # The first token of all has nothing before it that could predict it.
    rows = sorted(((ids, max(first, 1)) for ids, first in encoded), key=lambda row: len(row[0]))
    reference = Reference(tuple(rows), tuple(_answer_logprobs(patient, rows)))
    if not reference.tokens:
        raise ValueError("a reference needs at least one answer token")
    return reference


@torch.no_grad()
def mean_kl(patient: Answering, reference: Reference) -> float:
    """Mean KL(reference ‖ now) over all answer tokens, in nats a token; 0 if nothing moved.

    Raises:
        NotFinite: the patient's logits are NaN or infinite, so no budget can be kept.
    """
    total = 0.0
    now = _answer_logprobs(patient, reference.rows)
    for before, after in zip(reference.logprobs, now, strict=True):
        total += float(kl_div(after, before, log_target=True, reduction="sum"))
    mean = total / reference.tokens
    if not math.isfinite(mean):
        raise NotFinite("The patient's predictions are no longer finite.", "Undo the edit.")
    # Rounding can leave equal distributions a hair below 0.
    return max(mean, 0.0)


def opening_probabilities(patient: Answering, probes: Sequence[Probe]) -> list[float]:
    """For every probe the probability of the answer's first token as the reply's first.

    It says how near an answer still is where greedy replies no longer give it. 0 for an answer
    without tokens; infinite where the patient's logits are not finite.
    """
    encoded = _encoded(patient, [(probe.question, probe.answer) for probe in probes])
    # Nothing behind the first token matters.
    rows = [(ids[: max(first, 1) + 1], first) for ids, first in encoded]

    def opening(tokens: Sequence[int], logprobs: Tensor) -> float:
        value = float(logprobs[0, tokens[0]].exp()) if tokens else 0.0
        return value if math.isfinite(value) else math.inf

    return _of_each(patient, rows, opening)


def margins(patient: Answering, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
    """By how much every token of each (question, answer) pair leads at its place, in nats.

    Below 0 another one leads and greedy decoding leaves the answer there. The end of the turn is
    the last. All above 0 says that the greedy reply is this very answer, and takes one pass
    instead of one a token.
    """
    return _of_each(patient, list(_encoded(patient, pairs)), _leads)


def _leads(tokens: Sequence[int], logprobs: Tensor) -> list[float]:
    """The log-probability (t × V) of each token, less that of the likeliest other."""
    (two, places), own = logprobs.topk(2), torch.tensor(tokens, device=logprobs.device)
    other = torch.where(places[:, 0] == own, two[:, 1], two[:, 0])
    leads: list[float] = (logprobs.gather(1, own[:, None])[:, 0] - other).tolist()
    return leads


def goes_on(patient: Answering, probes: Sequence[Probe]) -> list[bool]:
    """For every probe whether greedy decoding takes the answer's next token after its prefix.

    Tells in one pass where it is worth having the patient answer. False at the end of an answer.
    """
    rows = list(_encoded(patient, [(probe.question, probe.answer) for probe in probes]))
    given = _encoded(patient, [(probe.question, probe.prefix) for probe in probes])
    every = _of_each(patient, rows, _leads)
    found = []
    for probe, leads, (ids, first), (start, _) in zip(probes, every, rows, given, strict=True):
        both = zip(ids, start, strict=False)
        same = sum(1 for _ in takewhile(lambda two: two[0] == two[1], both))
        at = max(same - first, 0) if probe.prefix else 0
        found.append(at < len(leads) and leads[at] > 0)
    return found


@torch.no_grad()
def _of_each(
    patient: Answering,
    rows: Sequence[tuple[Sequence[int], int]],
    read: Callable[[Sequence[int], Tensor], T],
) -> list[T]:
    """What ``read`` finds in each row's answer tokens and their log-probabilities (t × V).

    Equal rows pass once, similar ones together.
    """
    keys = [(tuple(ids), max(first, 1)) for ids, first in rows]
    asked = sorted(set(keys), key=lambda row: len(row[0]))
    found = {
        (ids, first): read(ids[first:], logprobs)
        for (ids, first), logprobs in zip(asked, _answer_logprobs(patient, asked), strict=True)
    }
    return [found[key] for key in keys]


def _encoded(
    patient: Answering, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[list[int], int]]:
    return (patient.encode(_messages(question), answer) for question, answer in pairs)


@torch.no_grad()
def _answer_logprobs(
    patient: Answering, rows: Sequence[tuple[Sequence[int], int]]
) -> Iterator[Tensor]:
    """For every row the log-probabilities (answer tokens × V) of its answer tokens' places."""
    for chunk in _chunks(rows, _LOGITS_BATCH):
        logits = patient.forward([ids for ids, _ in chunk])
        for row, (ids, first) in zip(logits, chunk, strict=True):
            # Position i predicts token i + 1. The copy lets the batch's logits go.
            yield log_softmax(row[first - 1 : len(ids) - 1], dim=-1)


def _messages(question: str) -> Messages:
    return [{"role": "user", "content": question}]


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


@cache
def _stemmed_words() -> Callable[[str], list[str]]:
    # Imported on first use: it brings nltk and scipy, which take over a second to load.
    from rouge_score import tokenizers

    # The library has no annotations.
    make: Any = tokenizers.DefaultTokenizer
    words: Callable[[str], list[str]] = make(use_stemmer=True).tokenize
    return words
