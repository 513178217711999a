"""Reports: worked by hand on a patient of three words, and whole on a tiny random model."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from repair.bench.likelihood import Reading, answer_tokens, continuations, letter_logprobs
from repair.bench.scores import (
    Material,
    Options,
    Passage,
    choice_accuracy,
    forget_scores,
    harness_report,
    knowmem,
    privacy_scores,
    utility_scores,
    verbmem,
)
from repair.errors import NotFinite, UsageError
from repair.types import Messages

if TYPE_CHECKING:
    from tests.conftest import MakeTiny

# The scripted patient's vocabulary: the end of a turn and two words, at any place the same.
END, RED, BLUE = 0.5, 0.3, 0.2
FEW = Options(reply_tokens=4, verbmem_tokens=4, knowmem_tokens=4, resamples=20)


@dataclass(frozen=True)
class Question:
    question: str
    answer: str
    paraphrases: tuple[str, ...] = ()
    answer_paraphrases: tuple[str, ...] = ()
    wrong_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Letters:
    prompt: str
    options: tuple[str, ...]
    index: int


class Scripted:
    """Writes one token a word, predicts the same everywhere, and answers from a table."""

    def __init__(
        self,
        chances: Sequence[float] = (END, RED, BLUE),
        replies: Mapping[str, str] | None = None,
    ) -> None:
        self.logits = torch.tensor([math.log(chance) for chance in chances])
        self.table = replies or {}
        self.tokenizer: Any = self._tokenize
        self.read = 0
        self.heard: list[Messages] = []
        self.limits: set[int] = set()

    def _tokenize(self, text: str, **_: object) -> SimpleNamespace:
        ids = [1 if word == "red" else 2 for word in text.split()]
        return SimpleNamespace(input_ids=ids)

    def prompt_ids(self, messages: Messages, prefix: str = "") -> list[int]:
        return [0, *self._tokenize(prefix).input_ids]

    def encode(self, messages: Messages, answer: str) -> tuple[list[int], int]:
        return [*self.prompt_ids(messages, answer), 0], 1

    def forward(self, ids: Sequence[Sequence[int]]) -> Tensor:
        self.read += len(ids)
        return self.logits.expand(len(ids), max(map(len, ids)), -1)

    def replies(
        self,
        batch: Sequence[Messages],
        *,
        prefixes: Sequence[str] | None = None,
        max_new_tokens: int = 64,
    ) -> list[str]:
        self.heard += batch
        self.limits.add(max_new_tokens)
        starts = prefixes or [""] * len(batch)
        asked = [messages[-1]["content"] for messages in batch]
        return [self.table[question + start] for question, start in zip(asked, starts, strict=True)]

    def generate_ids(self, prompts: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
        raise AssertionError("the script has no raw texts to go on with")


# The patient's tokens


def test_scores_of_an_answer() -> None:
    (found,) = answer_tokens(Scripted(), [("?", "red blue")])
    assert found.logprobs.exp().tolist() == pytest.approx([RED, BLUE, END])
    assert found.answer_logprobs.exp().tolist() == pytest.approx([RED, BLUE])
    mean = sum(p * math.log(p) for p in (END, RED, BLUE))
    assert found.mean.tolist() == pytest.approx([mean] * 2)
    square = sum(p * math.log(p) ** 2 for p in (END, RED, BLUE))
    assert found.deviation.tolist() == pytest.approx([math.sqrt(square - mean**2)] * 2)
    assert found.hits.tolist() == [False, False]


def test_a_raw_text_is_scored_from_its_second_token() -> None:
    (found,) = answer_tokens(Scripted(), [(None, "red red blue")])
    assert found.logprobs.exp().tolist() == pytest.approx([RED, BLUE])
    with pytest.raises(UsageError, match="no tokens"):
        answer_tokens(Scripted(), [(None, "red")])


@pytest.mark.parametrize("answer", ["", "  "])
def test_an_answer_needs_tokens(answer: str) -> None:
    with pytest.raises(UsageError, match="no tokens"):
        answer_tokens(Scripted(), [("?", answer)])


def test_a_broken_patient_is_named() -> None:
    broken = Scripted((END, math.nan, BLUE))
    with pytest.raises(NotFinite):
        answer_tokens(broken, [("?", "red")])
    with pytest.raises(NotFinite):
        letter_logprobs(broken, ["?"], letters=["red"])


def test_equal_contexts_are_read_once() -> None:
    patient = Scripted()
    found = letter_logprobs(patient, ["?"], letters=["red", "blue", "blue red"])
    expected = [math.log(RED), math.log(BLUE), math.log(BLUE * RED)]
    assert found[0] == pytest.approx(expected)
    # "red" and "blue" differ in their last token alone.
    assert patient.read == 2


# By hand


def test_what_is_left_of_a_forget_set() -> None:
    patient = Scripted(replies={"one": "blue", "two": "red red", "1": "red", "uno": "blue"})
    records = [
        Question("one", "red", ("1", "uno"), wrong_answers=("blue",)),
        Question("two", "red red", answer_paraphrases=("red",), wrong_answers=("blue", "red red")),
    ]
    report = forget_scores(patient, records, options=FEW)
    # (0.3 · 0.5)^(1/2) and (0.3 · 0.3 · 0.5)^(1/3)
    probability = (math.sqrt(0.15) + 0.045 ** (1 / 3)) / 2
    assert report["probability"]["mean"] == pytest.approx(probability)
    # Recall 0 and 1; the first record's wordings 1 and 0.
    assert report["rouge_l"]["mean"] == pytest.approx(0.5)
    assert report["paraphrase_rouge_l"] == {
        **report["paraphrase_rouge_l"],
        "mean": pytest.approx(0.5),
        "n": 1,
    }
    # R₁ = (0.2 · 0.5)^(1/2) / (0.3 · 0.5)^(1/2); R₂ = (the mean of both logs) / √0.15.
    first = math.sqrt(0.2 / 0.3)
    second = math.sqrt(math.sqrt(0.1) * 0.045 ** (1 / 3)) / math.sqrt(0.15)
    assert report["truth_ratio"]["mean"] == pytest.approx((first + second) / 2)
    assert report["exact_memorization"]["mean"] == report["extraction_strength"]["mean"] == 0.0
    assert "quality" not in report
    assert {score["n"] for name, score in report.items() if "para" not in name} == {2}
    assert patient.limits == {FEW.reply_tokens}


def test_memorisation_leaves_the_end_of_the_turn_out() -> None:
    # Red is always the likeliest, so the end of the turn never is.
    patient = Scripted((0.1, 0.7, 0.2), {"?": "red"})
    records = [Question("?", "red red"), Question("?", "blue red red red")]
    report = forget_scores(patient, records, options=FEW)
    # Of the second answer 3 of 4, all after the first.
    assert report["exact_memorization"]["mean"] == pytest.approx((1 + 3 / 4) / 2)
    assert report["extraction_strength"]["mean"] == pytest.approx((1 + 3 / 4) / 2)


def test_quality_compares_truth_ratios_with_the_oracles() -> None:
    records = [Question("?", "red", wrong_answers=("blue",))] * 3
    patient = Scripted(replies={"?": "red"})
    alike = forget_scores(patient, records, oracle=Scripted(), options=FEW)["quality"]
    assert alike == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 6}
    # All of its ratios lie above the patient's: 2 of the C(6, 3) = 20 orders.
    oracle = Scripted((END, BLUE, RED))
    assert forget_scores(patient, records, oracle=oracle, options=FEW)["quality"]["mean"] == (
        pytest.approx(2 / 20)
    )


def test_model_utility() -> None:
    patient = Scripted(replies={"?": "red"})
    records = [Question("?", "red", wrong_answers=("blue",))]
    report = utility_scores(patient, {"retain": records, "world_facts": records}, options=FEW)
    red, blue, truth = math.sqrt(0.15), math.sqrt(0.1), 1 - math.sqrt(2 / 3)
    assert report["retain_probability"]["mean"] == pytest.approx(red)
    # Among its options.
    assert report["world_facts_probability"]["mean"] == pytest.approx(red / (red + blue))
    assert report["retain_truth_ratio"]["mean"] == pytest.approx(truth)
    # 6 / Σ 1/v over probability, recall (1) and truth of both sets.
    total = 1 / red + (red + blue) / red + 2 / 1 + 2 / truth
    assert report["model_utility"]["mean"] == pytest.approx(6 / total)
    assert report["model_utility"]["n"] == 2


def test_no_model_utility_without_truth_ratios() -> None:
    patient = Scripted(replies={"?": "red"})
    report = utility_scores(patient, {"retain": [Question("?", "red")]}, options=FEW)
    assert set(report) == {"retain_probability", "retain_rouge_l"}


def test_membership() -> None:
    # Min-40 % of "red red" is ln 0.3, of "blue" ln 0.2: 2 wins, 2 ties of 4 pairs.
    forget, holdout = [("?", "red red"), (None, "red red red")], [("?", "red"), ("?", "blue")]
    report = privacy_scores(Scripted(), forget, holdout, options=FEW)
    assert report["min_k_auc"]["mean"] == pytest.approx(3 / 4)
    assert report["min_k_plus_plus_auc"]["mean"] == pytest.approx(3 / 4)
    # 100 (1/4 − 1/2) / (1/2)
    assert report["privleak"]["mean"] == pytest.approx(-50)
    # To this oracle red is 0.2 and blue 0.3: 2 ties and 2 losses, AUC 1/4, s_ref 3/4.
    oracle = Scripted((END, BLUE, RED))
    compared = privacy_scores(Scripted(), forget, holdout, oracle=oracle, options=FEW)
    assert compared["privleak"]["mean"] == pytest.approx(100 * (1 / 4 - 3 / 4) / (3 / 4))
    assert compared["min_k_auc"] == report["min_k_auc"]


def test_no_privleak_where_the_oracle_tells_them_apart() -> None:
    report = privacy_scores(
        Scripted(), [("?", "red")], [("?", "blue")], oracle=Scripted(), options=FEW
    )
    assert set(report) == {"min_k_auc", "min_k_plus_plus_auc"}


def test_knowmem_asks_after_examples() -> None:
    patient = Scripted(replies={"one": "red blue", "two": "blue"})
    shots = [Question("three", "red"), Question("four", "blue")]
    records = [Question("one", "red"), Question("two", "red")]
    score = knowmem(patient, records, shots, options=FEW)
    # Recall 1, precision 1/2: 2 · 0.5 / 1.5; and 0.
    assert score["mean"] == pytest.approx((2 / 3 + 0) / 2)
    contents = [message["content"] for message in patient.heard[0]]
    assert contents == ["three", "red", "four", "blue", "one"]
    assert patient.limits == {FEW.knowmem_tokens}


def test_verbmem_goes_on_with_an_answer() -> None:
    patient = Scripted(replies={"?red blue": "red red"})
    passages = [Passage("red blue", "red red blue blue", question="?")]
    # Recall 2/4, precision 2/2.
    assert verbmem(patient, passages, options=FEW)["mean"] == pytest.approx(2 / 3)
    assert patient.limits == {FEW.verbmem_tokens}


class Spelling(Scripted):
    """Knows the letters, the earlier the likelier."""

    def __init__(self) -> None:
        super().__init__([1 / (place + 1) for place in range(27)])

    def _tokenize(self, text: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(
            input_ids=[1 + string.ascii_uppercase.index(letter) for letter in text]
        )


def test_choices_of_different_length() -> None:
    patient = Spelling()
    choices = [Letters("?", ("", "", ""), 0), Letters("?", ("", ""), 1), Letters("?", ("",), 0)]
    # The patient always says A.
    assert choice_accuracy(patient, choices)["mean"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("options", "index"), [(3, 3), (3, -1), (27, 0), (0, 0)])
def test_a_choice_needs_its_right_option(options: int, index: int) -> None:
    good = Letters("?", ("", ""), 1)
    with pytest.raises(UsageError, match="Choice 2"):
        choice_accuracy(Spelling(), [good, Letters("?", ("",) * options, index)])


# Bad input

ONE = [Question("?", "red", wrong_answers=("blue",))]
BAD: list[tuple[Callable[[Reading], object], str]] = [
    (lambda p: forget_scores(p, [], options=FEW), "forget set is empty"),
    (lambda p: utility_scores(p, {}, options=FEW), "kept set is empty"),
    (lambda p: utility_scores(p, {"retain": []}, options=FEW), "retain set is empty"),
    (lambda p: privacy_scores(p, [], [("?", "red")]), "forget set is empty"),
    (lambda p: privacy_scores(p, [("?", "red")], []), "holdout set is empty"),
    (lambda p: verbmem(p, []), "passages set is empty"),
    (lambda p: knowmem(p, [], ONE), "question set is empty"),
    (lambda p: knowmem(p, ONE, []), "example set is empty"),
    (lambda p: choice_accuracy(p, []), "multiple-choice set is empty"),
    (lambda p: letter_logprobs(p, ["?"], letters=[]), "at least one letter"),
    (lambda p: letter_logprobs(p, [" "]), "multiple-choice question is empty"),
    (lambda p: continuations(p, [""]), "text to continue is empty"),
    (lambda p: harness_report(p, Material(ONE, ONE, holdout=[]), options=FEW), "holdout set"),
    (lambda p: harness_report(p, Material(ONE, ONE, world_facts=()), options=FEW), "world_facts"),
    (
        lambda p: forget_scores(p, [*ONE, Question("?", "red")], options=FEW),
        "Record 2 of forget has no wrong answers",
    ),
    (
        lambda p: utility_scores(p, {"real_authors": [Question("?", "red")]}, options=FEW),
        "real_authors have no wrong answers",
    ),
]


@pytest.mark.parametrize(("score", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input_is_named(score: Callable[[Reading], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        score(Scripted(replies={"?": "red"}))


# A real model


def records(n: int) -> list[Question]:
    return [
        Question(
            f"Where does person {i} live?",
            f"In house {i}" + ", by the old harbour" * (i % 3),
            (f"Home of person {i}?",),
            (f"Person {i} lives in house {i}.",),
            (f"In house {i + 7}.", "By the sea."),
        )
        for i in range(n)
    ]


def test_a_whole_report(make_tiny: MakeTiny) -> None:
    from repair.patient import Patient

    patient = Patient(*make_tiny("llama"))
    oracle = Patient(*make_tiny("llama", seed=1))
    questions = records(10)
    material = Material(
        forget=questions[:3],
        retain=questions[3:5],
        real_authors=questions[5:6],
        world_facts=questions[6:7],
        holdout=questions[7:9],
        passages=[Passage("Mara Voss", "lives in Ellbridge"), Passage("In", "house 0", "Who?")],
        shots=questions[9:],
        choices=[Letters("Which?\nA. a\nB. b\nC. c\nD. d\nAnswer:", ("a", "b", "c", "d"), 2)],
    )
    before = [layer.parameter.clone() for layer in patient.layers]
    state = torch.random.get_rng_state()
    report = harness_report(patient, material, oracle=oracle, options=FEW)
    assert report["min_k_auc"]["n"] == 5
    sets = ("retain", "real_authors", "world_facts")
    kept = {f"{s}_{measure}" for s in sets for measure in ("probability", "rouge_l", "truth_ratio")}
    left = "probability rouge_l exact_memorization extraction_strength paraphrase_rouge_l"
    assert set(report) == kept | {f"forget_{name}" for name in left.split()} | {
        *("forget_truth_ratio", "forget_quality", "model_utility"),
        *("min_k_auc", "min_k_plus_plus_auc", "privleak"),
        *("forget_verbmem", "forget_knowmem", "retain_knowmem", "choice_accuracy"),
    }
    for name, score in report.items():
        assert score["low"] <= score["mean"] <= score["high"], name
        assert all(math.isfinite(score[end]) for end in ("low", "mean", "high"))
        assert score["n"] >= 1
        if name != "privleak":
            assert 0 <= score["low"] <= score["high"] <= 1
    assert report["forget_probability"]["n"] == 3
    assert report["model_utility"]["n"] == 4
    # Free of side effects, and the same again.
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b.parameter) for a, b in zip(before, patient.layers, strict=True))
    assert harness_report(patient, material, oracle=oracle, options=FEW) == report
    # A patient that is the oracle has nothing left to hide.
    same = harness_report(patient, material, oracle=patient, options=replace(FEW, seed=5))
    assert same["forget_quality"]["mean"] == pytest.approx(1.0)
    assert same["forget_probability"] == report["forget_probability"]
