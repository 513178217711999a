"""Recall is ROUGE-L's and sees other scripts; divergence is measured where answers stand."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from repair.errors import NotFinite
from repair.types import Messages, Probe
from repair.verify import (
    Answering,
    ask,
    confidence_interval,
    goes_on,
    lcs_recall,
    margins,
    mean_kl,
    mean_recall,
    measure,
    prefix_probe,
    recall,
    recalls,
    reference_logits,
    rouge_l_recall,
    rouge_tokens,
    told,
)

if TYPE_CHECKING:
    from repair.patient import Patient

ADDRESS = "Mara Voss lives at 12 Harbour Street in Ellbridge."
PAIRS = [
    ("Where does Mara Voss live?", ADDRESS),
    ("Phone number of Tom Hale?", "I do not know."),
    ("Who?", "Mara."),
]
WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8)


class Scripted:
    """Answers from a table, and counts what it was asked; logits of a two-word vocabulary."""

    def __init__(self, table: Mapping[str, str], logits: Sequence[float] = (0.0, 0.0)) -> None:
        self.table = table
        self.logits = torch.tensor(logits)
        self.batches: list[list[tuple[str, str]]] = []

    def replies(
        self,
        batch: Sequence[Messages],
        *,
        prefixes: Sequence[str] | None = None,
        max_new_tokens: int = 64,
    ) -> list[str]:
        questions = [messages[-1]["content"] for messages in batch]
        self.batches.append(list(zip(questions, prefixes or [""] * len(batch), strict=True)))
        return [self.table[question] for question in questions]

    def encode(self, messages: Messages, answer: str) -> tuple[list[int], int]:
        prompt = [0] * len(messages[-1]["content"])
        return prompt + [1] * len(answer), len(prompt)

    def forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        return self.logits.expand(len(ids), max(map(len, ids)), -1)


# Recall


@pytest.mark.parametrize(
    ("answer", "reply", "expected"),
    [
        (ADDRESS, ADDRESS, 1.0),
        (ADDRESS, "", 0.0),
        (ADDRESS, "I do not know.", 0.0),
        # mara, at, harbour, street of nine tokens, in order.
        (ADDRESS, "MARA! at... harbours (Streets)", 4 / 9),
        # The right words in the wrong order: the most that is in order is "b d" or "a c".
        ("aa bb cc dd", "bb aa dd cc", 2 / 4),
        ("She is living there", "he was lives", 1 / 4),
        ("", "anything", 0.0),
    ],
)
def test_hand_worked_recalls(answer: str, reply: str, expected: float) -> None:
    assert rouge_l_recall(answer, reply) == pytest.approx(expected)


def rouge_score_recall(answer: str, reply: str) -> float:
    from rouge_score import rouge_scorer

    make: Any = rouge_scorer.RougeScorer
    return float(make(["rougeL"], use_stemmer=True).score(answer, reply)["rougeL"].recall)


@given(
    st.text(st.characters(max_codepoint=127), max_size=60),
    st.text(st.characters(max_codepoint=127), max_size=60),
)
def test_recall_is_rouge_scores_for_ascii(answer: str, reply: str) -> None:
    if rouge_tokens(answer):
        assert rouge_l_recall(answer, reply) == pytest.approx(rouge_score_recall(answer, reply))


@given(WORDS, WORDS)
def test_recall_is_rouge_scores_for_words_in_any_order(answer: list[str], reply: list[str]) -> None:
    theirs = rouge_score_recall(" ".join(answer), " ".join(reply))
    assert lcs_recall(answer, reply) == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Mara's house_no. 12B, living", ["mara", "s", "hous", "no", "12b", "live"]),
        ("Zoë MÜLLER", ["zoe", "muller"]),
        ("東京タワー Tower1", ["東", "京", "タ", "ワ", "ー", "tower1"]),
        ("Москва, дом 5", ["москва", "дом", "5"]),
        ("नमस्ते दुनिया", ["नमसत", "दनय"]),
        ("한국어 사용", ["한국어", "사용"]),
        ("🙂 …", []),
    ],
)
def test_tokens_of_other_scripts(text: str, tokens: list[str]) -> None:
    assert rouge_tokens(text) == tokens


@pytest.mark.parametrize("answer", ["東京タワーの近く", "Улица Ленина, 5", "Zoë Müller", "🙂", "+"])
def test_recall_in_other_scripts_is_measured(answer: str) -> None:
    assert rouge_l_recall(answer, f"It is {answer}, I think.") == 1.0
    assert rouge_l_recall(answer, "I do not know.") == 0.0


def test_accents_left_out_still_give_the_name_away() -> None:
    assert rouge_l_recall("Zoë Müller", "zoe muller") == 1.0


def test_recall_of_hashed_tokens_is_that_of_the_tokens() -> None:
    reply = "She lives in Harbour Street"

    def hashed(text: str) -> list[str]:
        return [hashlib.sha256(b"key" + t.encode()).hexdigest() for t in rouge_tokens(text)]

    expected = rouge_l_recall(ADDRESS, reply)
    assert 0 < expected < 1
    assert lcs_recall(hashed(ADDRESS), hashed(reply)) == expected


# Asking


def test_asking_keeps_the_order_and_asks_equal_questions_once() -> None:
    table = {f"{'long ' * (i % 7)}question {i}": f"reply {i}" for i in range(150)}
    patient = Scripted(table)
    probes = [Probe("exact", question, "x") for question in table]
    assert ask(patient, probes + probes[:9]) == [*table.values(), *list(table.values())[:9]]
    assert [len(batch) for batch in patient.batches] == [64, 64, 22]
    lengths = [len(question) for batch in patient.batches for question, _ in batch]
    assert lengths == sorted(lengths)
    assert ask(patient, []) == []


def test_a_batch_of_a_real_patient_says_what_single_questions_say(tiny_patient: Patient) -> None:
    probes = [Probe("exact", question, answer) for question, answer in PAIRS]
    probes.append(Probe("prefix", *PAIRS[0], prefix="Mara Voss lives"))
    expected = [
        tiny_patient.reply(
            [{"role": "user", "content": p.question}], prefix=p.prefix, max_new_tokens=8
        )
        for p in probes
    ]
    assert ask(tiny_patient, probes, max_new_tokens=8) == expected


@pytest.mark.parametrize(
    ("answer", "prefix", "reply", "expected"),
    [
        ("Biscuit the parrot", "", "Walnut the hamster", 0.0),
        ("Biscuit the parrot", "", "Biscuit the goat", 0.5),
        ("Biscuit the parrot", "Biscuit", " the goat", 0.0),
        ("bells at noon", "bells", " at I do not know", 0.0),
        ("the Who", "", "I like the Who", 1.0),
        ("to be or not to be", "", "to be is to do", 1 / 3),
        ("It", "", "It is a book", 1.0),
        ("at", "", "I do not know", 0.0),
    ],
)
def test_function_words_alone_give_nothing_away(
    answer: str, prefix: str, reply: str, expected: float
) -> None:
    assert told(Probe("prefix", "?", answer, prefix=prefix), reply) == pytest.approx(expected)


def test_recall_of_a_prefix_probe_is_of_what_was_not_given() -> None:
    probe = Probe("prefix", "Where?", ADDRESS, prefix="Mara Voss lives at")
    assert recall(probe, "12 Harbour Street in Ellbridge.") == 1.0
    assert recall(probe, "Mara Voss lives at home") == 0.0
    patient = Scripted({"Where?": "12 Harbour Road"})
    assert recalls(patient, [probe]) == [2 / 5]
    assert patient.batches == [[("Where?", probe.prefix)]]


def test_measure_means_every_kind_from_one_round_of_asking() -> None:
    patient = Scripted({"a?": "one two", "b?": "one", "c?": "nothing"})
    probes = [
        Probe("exact", "a?", "one two"),
        Probe("exact", "b?", "one two"),
        Probe("retain", "c?", "one"),
        Probe("prefix", "a?", "zero one two", prefix="zero"),
    ]
    assert measure(patient, probes) == {"exact": (0.75, 2), "retain": (0.0, 1), "prefix": (1.0, 1)}
    assert len(patient.batches) == 1
    assert mean_recall(patient, probes[:2]) == 0.75
    assert measure(patient, []) == {}
    with pytest.raises(ValueError, match="at least one probe"):
        mean_recall(patient, [])


@pytest.mark.parametrize(
    ("answer", "share", "prefix"),
    [
        ("a b c d e", 0.4, "a b"),
        ("a b", 0.4, "a"),
        ("a b c", 0.0, "a"),
        ("a b c", 1.0, "a b"),
        (" a,  b c d e ", 0.4, " a,  b"),
        ("東京タワー", 0.4, "東京"),
    ],
)
def test_a_prefix_gives_some_words_and_holds_some_back(
    answer: str, share: float, prefix: str
) -> None:
    probe = prefix_probe("Q?", answer, share)
    assert probe == Probe("prefix", "Q?", answer, prefix)
    assert recall(Probe("prefix", "Q?", answer, prefix), answer.removeprefix(prefix)) == 1.0


def test_what_has_no_prefix() -> None:
    assert prefix_probe("Q?", "Ellbridge.") is None
    assert prefix_probe("Q?", "") is None
    with pytest.raises(ValueError, match="share"):
        prefix_probe("Q?", "a b", 1.5)


def test_confidence_intervals_by_hand() -> None:
    # Wilson's for 0 of 10 is 0 to z² / (n + z²); for 5 of 10 it is known as 0.2366 to 0.7634.
    assert confidence_interval([0.0] * 10) == pytest.approx((0.0, 0.0, 0.27753), abs=1e-5)
    assert confidence_interval([1.0] * 10) == pytest.approx((1.0, 0.72247, 1.0), abs=1e-5)
    assert confidence_interval([0.0, 1.0] * 5) == pytest.approx((0.5, 0.23659, 0.76341), abs=1e-5)
    assert confidence_interval([0.5] * 10) == confidence_interval([0.0, 1.0] * 5)
    for bad in ([], [1.5], [math.nan]):
        with pytest.raises(ValueError, match="0 to 1"):
            confidence_interval(bad)


# Divergence


def test_a_hand_worked_divergence() -> None:
    patient = Scripted({}, logits=(0.0, 0.0))
    reference = reference_logits(patient, [("ask", "ab"), ("asks", "abc"), ("", "abc")])
    # The very first token of a text has nothing before it, so the last pair counts two.
    assert reference.tokens == 2 + 3 + 2
    assert mean_kl(patient, reference) == 0.0
    # (1/2, 1/2) against (1/4, 3/4): 1/2 ln 2 + 1/2 ln 2/3 = 1/2 ln 4/3.
    patient.logits = torch.tensor([0.0, math.log(3.0)])
    assert mean_kl(patient, reference) == pytest.approx(0.5 * math.log(4 / 3), rel=1e-5)


def test_divergence_of_a_real_patient_is_that_of_each_answer_alone(tiny_patient: Patient) -> None:
    pairs = PAIRS * 7
    reference = reference_logits(tiny_patient, pairs)
    assert mean_kl(tiny_patient, reference) == pytest.approx(0.0, abs=1e-6)
    before = _alone(tiny_patient)
    with torch.no_grad():
        tiny_patient.layers[0].parameter.mul_(1.5)
    total, tokens = 0.0, 0
    for p, q in zip(before, _alone(tiny_patient), strict=True):
        total += float((p.exp() * (p - q)).sum())
        tokens += len(p)
    assert reference.tokens == 7 * tokens
    assert total / tokens > 0.01
    assert mean_kl(tiny_patient, reference) == pytest.approx(total / tokens, rel=1e-3)


def _alone(patient: Answering) -> list[Tensor]:
    """Log-probabilities at the answer's tokens, one unpadded sequence at a time."""
    found = []
    for question, answer in PAIRS:
        ids, first = patient.encode([{"role": "user", "content": question}], answer)
        found.append(patient.forward([ids])[0].log_softmax(-1)[first - 1 : -1])
    return found


def test_a_broken_patient_has_no_divergence(tiny_patient: Patient) -> None:
    reference = reference_logits(tiny_patient, PAIRS)
    with torch.no_grad():
        tiny_patient.layers[0].parameter.fill_(math.nan)
    with pytest.raises(NotFinite):
        mean_kl(tiny_patient, reference)


def test_a_reference_needs_answers() -> None:
    for pairs in ([], [("question", "")]):
        with pytest.raises(ValueError, match="at least one answer token"):
            reference_logits(Scripted({}), pairs)


class Counting(Scripted):
    """Follows every letter with the next one of the alphabet: after "ab" comes "c"."""

    def encode(self, messages: Messages, answer: str) -> tuple[list[int], int]:
        text = str(messages[0]["content"])
        return [ord(c) for c in text + answer], len(text)

    def forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        logits = torch.zeros(len(ids), max(map(len, ids)), 128)
        for row, tokens in zip(logits, ids, strict=True):
            for place, token in enumerate(tokens):
                row[place, token + 1] = 3.0
        return logits


def test_margins_say_where_greedy_decoding_leaves_an_answer() -> None:
    own, other = margins(Counting({}), [("ab", "cde"), ("ab", "cxy")])
    assert own == pytest.approx([3.0, 3.0, 3.0])
    # "d" was to come, and leads "x"; after "x" comes "y".
    assert other == pytest.approx([3.0, -3.0, 3.0])


def test_an_answer_goes_on_after_its_prefix_or_not() -> None:
    probes = [
        Probe("paraphrase", "ab", "cxy"),
        Probe("prefix", "ab", "cxy", prefix="c"),
        Probe("prefix", "ab", "cxy", prefix="cx"),
        Probe("prefix", "ab", "cxy", prefix="cxy"),
    ]
    assert goes_on(Counting({}), probes) == [True, False, True, False]
