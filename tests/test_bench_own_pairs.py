"""A user's own pairs, forget against retain, and one kind of record made into another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repair.bench.datasets.data import check_disjoint, load, load_pairs
from repair.bench.datasets.records import Choice, as_pairs
from tests.bench_files import MINE, QUESTION, WRITERS, as_lines, as_list, refused

# The user's own pairs


@WRITERS
def test_own_pairs(tmp_path: Path, write: Any) -> None:
    full = {**MINE, "paraphrases": ["Mara's home?"], "subject": "Mara", "truth": "In Oslo."}
    (record,) = load_pairs(write(tmp_path / "mine", [full]))
    assert record.paraphrases == ("Mara's home?",)
    assert (record.subject, record.truth, record.provenance.dataset) == (
        "Mara",
        "In Oslo.",
        "mine",
    )


def test_what_repair_facts_writes_can_be_read_back(tmp_path: Path) -> None:
    from repair.world import facts

    rows = [fact.to_json() for fact in facts("misinformation", "dev")]
    read = load_pairs(as_lines(tmp_path / "facts.jsonl", rows))
    assert [record.truth for record in read] == [row["truth"] for row in rows]


def test_blank_lines_are_counted_and_other_separators_end_no_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    odd = {**MINE, "answer": "In\u2028Ellbridge"}
    text = f"\ufeff{json.dumps(MINE)}\r\n\r\n{json.dumps(odd, ensure_ascii=False)}"
    file.write_bytes(text.encode())
    first, second = load_pairs(file)
    assert (first.place, second.place) == (f"{file}:1", f"{file}:3")
    assert second.answer == "In\u2028Ellbridge"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"answer": None}, 'the field "answer" is missing'),
        ({"question": " "}, '"question" is blank'),
        ({"question": 7}, '"question" must be a text, not a number'),
        ({"answer": ["a"]}, '"answer" must be a text, not a list'),
        ({"paraphrases": [1]}, '"paraphrases" must be a list of texts'),
        ({"wrong_answers": {"a": 1}}, '"wrong_answers" must be a list of texts'),
        ({"subject": True}, '"subject" must be a text, not a truth value'),
    ],
)
def test_a_bad_field_is_named_with_file_and_line(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    rows = [MINE, {**MINE, **change}]
    error = refused(lambda: load_pairs(as_lines(tmp_path / "a.jsonl", rows)), complaint)
    assert f"{tmp_path / 'a.jsonl'}:2:" in error.message
    assert error.exit_code == 2
    # In a list the second record begins after the four lines of the first and the bracket.
    refused(lambda: load_pairs(as_list(tmp_path / "a.json", rows)), "a.json:6:", complaint)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": ', 2),
        ('{"question": "a", "answer": "b"} {}', 1),
        ("question,answer", 1),
        ("[" * 20_000, 1),
        ('[\n{"question": "a", "answer": "b"},\n{"question" "c"}]', 3),
        ('[{"question": "a", "answer": "b"}\n{"question": "a", "answer": "b"}]', 2),
        ('[{"question": "a", "answer": "b"},\n', 2),
        ('{"question": "a", "answer": "b"}\n["a", "b"]', 2),
        ('[\n\n"a"]', 3),
    ],
)
def test_what_is_not_json_is_named_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(text, encoding="utf-8")
    refused(lambda: load_pairs(file), f"a.jsonl:{line}: not")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(json.dumps(MINE).encode() + b"\n\xff\xfe")
    refused(lambda: load_pairs(file), "a.jsonl:2: not UTF-8")
    file.write_bytes(b"PAR1 and no more")
    pytest.importorskip("pyarrow")
    refused(lambda: load_pairs(file), "a.jsonl:1: not a readable Parquet file")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(lambda: load_pairs(tmp_path / "none.jsonl"), "no file", "none.jsonl")
    refused(lambda: load_pairs(tmp_path), "no file")


@pytest.mark.parametrize("text", ["", "\n \n", "[]", " [ ] "])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(text)
    refused(lambda: load_pairs(file), "a.jsonl has no records")
    refused(lambda: load("tofu", path=file), "has no records")


def test_an_empty_table(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "test-00000-of-00001.parquet"
    parquet.write_table(arrow.table({"question": arrow.array([], arrow.string())}), file)
    refused(lambda: load("wmdp", path=file), "has no records")


def test_a_split_of_blank_passages_alone(tmp_path: Path) -> None:
    file = as_lines(tmp_path / "t.jsonl", [{"text": ""}])
    refused(lambda: load("tinystories", path=file), "no records in the split validation")


# Forget and retain


def test_a_record_in_both_sets_is_named_in_both(tmp_path: Path) -> None:
    kept = {**MINE, "question": "Who is Tom?", "paraphrases": ["where does  MARA live"]}
    forget = load_pairs(as_lines(tmp_path / "forget.jsonl", [{**MINE, "question": "A?"}, MINE]))
    retain = load_pairs(as_lines(tmp_path / "retain.jsonl", [kept]))
    error = refused(lambda: check_disjoint(forget, retain), "forget.jsonl:2", "retain.jsonl:1")
    assert "Mara" not in str(error)
    check_disjoint(forget[:1], retain)


def test_many_clashes_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    rows = [{**MINE, "question": f"Number {i}?"} for i in range(8)]
    both = load_pairs(as_lines(tmp_path / "both.jsonl", rows))
    refused(lambda: check_disjoint(both, both), "8 of the forget set", "and 3 more")


def test_choices_clash_by_question_and_options(tmp_path: Path) -> None:
    other = {**QUESTION, "choices": ["Black", "White"], "answer": 0}
    first = load("wmdp", path=as_lines(tmp_path / "a.jsonl", [QUESTION]))
    second = load("wmdp", path=as_lines(tmp_path / "b.jsonl", [other]))
    check_disjoint(first, second)
    refused(lambda: check_disjoint(first, [*second, *first]), "a.jsonl:1")


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    pairs = load_pairs(as_lines(tmp_path / "a.jsonl", [MINE]))
    refused(lambda: check_disjoint([], pairs), "forget set has no records")
    refused(lambda: check_disjoint(pairs, []), "retain set has no records")


# From one kind of record to another


def test_a_claim_becomes_a_choice_with_its_truth() -> None:
    (claim,) = as_pairs(load("embedded", "misinformation", "dev", limit=1))
    question = claim.to_choice()
    assert len(question.options) == 4
    assert question.answer == claim.answer
    assert question.truth is not None
    assert question.options[question.truth] == claim.truth
    assert question.to_pair().truth == claim.truth
    assert question == claim.to_choice()


def test_wrong_labels_depend_on_the_seed_alone(tmp_path: Path) -> None:
    file = as_lines(tmp_path / "q.jsonl", [QUESTION] * 30)
    questions = [q for q in load("mmlu", path=file) if isinstance(q, Choice)]
    wrong = [q.mislabelled(1) for q in questions]
    assert all(q.index != 1 and q.truth == 1 for q in wrong)
    assert {q.index for q in wrong} == {0, 2, 3}
    assert wrong == [q.mislabelled(1) for q in questions]
    assert wrong != [q.mislabelled(2) for q in questions]
    assert wrong[0].to_pair().truth == "Blue"


def test_what_cannot_become_another_kind(tmp_path: Path) -> None:
    texts = load("tinystories", path=as_lines(tmp_path / "t.jsonl", [{"text": "Once."}]))
    refused(lambda: as_pairs(texts), "t.jsonl:1", "no question")
    (mine,) = load_pairs(as_lines(tmp_path / "mine.jsonl", [MINE]))
    refused(mine.to_choice, "mine.jsonl:1", "wrong answers")
    same = {**QUESTION, "choices": ["Blue", "Blue"]}
    (question,) = load("wmdp", path=as_lines(tmp_path / "same.jsonl", [same]))
    assert isinstance(question, Choice)
    refused(lambda: question.mislabelled(1), "same.jsonl:1")
