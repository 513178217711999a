"""Every data set in its original schema, where its records come from, and what can be wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from repair.bench.datasets.data import check_disjoint, load, names, provenances
from repair.bench.datasets.records import Choice, Pair, Text, as_pairs
from repair.bench.datasets.schemas import DATASETS
from repair.errors import EnvironmentProblem
from tests.bench_files import QUESTION, WRITERS, Rows, as_lines, as_list, as_table, refused

TOFU: dict[str, Any] = {
    "question": "Where was Ada Quill born?",
    "answer": "Ada Quill was born in Porto.",
    "paraphrased_question": "What is Ada Quill's birthplace?",
    "paraphrased_answer": "Porto is where Ada Quill was born.",
    "perturbed_answer": [f"Ada Quill was born in {c}." for c in ("Oslo", "Lima", "Bern")],
}
PROBE = {
    "query": "Ada Quill was born in ___.",
    "answer": "Porto",
    "subject": "Ada Quill",
    "level": "1",
    "type": "cloze",
}

# Original schemas


@WRITERS
def test_wmdp(tmp_path: Path, write: Any) -> None:
    file = write(tmp_path / "wmdp-cyber" / "test-00000-of-00001.parquet", [QUESTION, QUESTION])
    first, second = load("wmdp", path=file)
    assert isinstance(first, Choice)
    assert first.options == ("Red", "Blue", "Green", "Grey")
    assert (first.index, first.answer) == (1, "Blue")
    assert (first.provenance.config, first.provenance.split) == ("wmdp-cyber", "test")
    assert first.id != second.id
    assert first.prompt.splitlines()[-3:] == ["C. Green", "D. Grey", "Answer:"]


@WRITERS
def test_mmlu(tmp_path: Path, write: Any) -> None:
    file = write(tmp_path / "rows.parquet", [{**QUESTION, "subject": "astronomy"}])
    (record,) = load("mmlu", "all", "validation", path=file)
    assert isinstance(record, Choice)
    assert record.subject == "astronomy"
    assert record.provenance.split == "validation"


def test_mmlu_knows_its_57_subjects() -> None:
    assert len(DATASETS["mmlu"].configs) == 58


def test_tofu_keeps_json_lines_in_files_named_json(tmp_path: Path) -> None:
    plain = {key: TOFU[key] for key in ("question", "answer")}
    (record,) = load("tofu", path=as_lines(tmp_path / "forget05.json", [plain]))
    assert isinstance(record, Pair)
    assert record.provenance.config == "forget05"
    assert (record.question, record.answer) == (plain["question"], plain["answer"])
    assert (record.paraphrases, record.wrong_answers) == ((), ())


def test_tofu_perturbed(tmp_path: Path) -> None:
    (record,) = load("tofu", path=as_lines(tmp_path / "forget10_perturbed.json", [TOFU]))
    assert isinstance(record, Pair)
    assert record.paraphrases == ("What is Ada Quill's birthplace?",)
    assert record.answer_paraphrases == ("Porto is where Ada Quill was born.",)
    assert record.wrong_answers == tuple(TOFU["perturbed_answer"])


def test_tofu_world_facts_have_four_options(tmp_path: Path) -> None:
    options = {f"option{i}": city for i, city in enumerate(("Oslo", "Rome", "Lima", "Bern"), 1)}
    row = {"question": "Capital of Italy?", "answer": "Rome", **options}
    (record,) = load("tofu", path=as_lines(tmp_path / "world_facts.json", [row]))
    assert isinstance(record, Pair)
    assert record.wrong_answers == ("Oslo", "Lima", "Bern")


@pytest.mark.parametrize("name", ["muse-news", "muse-books"])
def test_muse(tmp_path: Path, name: str) -> None:
    question = {"question": "Who won?", "answer": "Lyon"}
    as_table(tmp_path / "knowmem" / "retain_qa-00000-of-00001.parquet", [question])
    (known,) = load(name, "knowmem", "retain_qa", path=tmp_path)
    assert isinstance(known, Pair)
    assert (known.answer, known.form) == ("Lyon", "question")

    verbatim = {"prompt": "The match began", "gt": "at noon in the rain."}
    file = as_table(tmp_path / "verbmem" / "forget-00000-of-00001.parquet", [verbatim])
    (continued,) = load(name, path=file)
    assert isinstance(continued, Pair)
    assert (continued.answer, continued.form) == ("at noon in the rain.", "continuation")

    file = as_table(tmp_path / "privleak" / "holdout-00000-of-00001.parquet", [{"text": "News."}])
    (text,) = load(name, path=file)
    assert isinstance(text, Text)
    assert (text.passage, text.provenance.split) == ("News.", "holdout")


def test_only_muse_news_has_folds() -> None:
    assert "sust" in DATASETS["muse-news"].configs
    assert "sust" not in DATASETS["muse-books"].configs


@pytest.mark.parametrize("write", [as_list, as_lines])
def test_rwku_probes(tmp_path: Path, write: Any) -> None:
    (blank,) = load("rwku", path=write(tmp_path / "forget_level1.json", [PROBE]))
    assert isinstance(blank, Pair)
    assert (blank.subject, blank.form) == ("Ada Quill", "blank")
    attack = {**PROBE, "level": "3", "type": "role play"}
    (attacked,) = load("rwku", path=write(tmp_path / "forget_level3.json", [attack]))
    assert isinstance(attacked, Pair)
    assert (attacked.category, attacked.form) == ("role play", "question")


def test_rwku_utility_and_membership(tmp_path: Path) -> None:
    targets = {"choices": ["Nothing.", "You die."], "labels": [1, 0]}
    general: dict[str, Any] = {
        **QUESTION,
        "task": "anatomy",
        "subject": "Ada Quill",
        "examples": [QUESTION],
    }
    truth = {"question": "What if you swallow a seed?", "mc1_targets": targets}
    trivia = {"question": "Who wrote Emma?", "answers": ["Jane Austen", "Austen"]}
    reason = {"question": "not True is", "answer": "False", "cot": "…", "task": "boolean"}
    folder = tmp_path / "All"
    rows: dict[str, dict[str, Any]] = {
        "retain_mmlu": general,
        "truthful": truth,
        "triviaqa": trivia,
        "retain_bbh": reason,
        "forget_mia": {"text": "Ada Quill is a poet.", "subject": "Ada Quill"},
    }
    for file, row in rows.items():
        as_list(folder / f"{file}.json", [row])
    (first,) = load("rwku", "utility_general", path=tmp_path)
    (second,) = load("rwku", "utility_truthfulness", path=tmp_path)
    (third,) = load("rwku", "utility_factuality", path=tmp_path)
    (fourth,) = load("rwku", "utility_reason", path=tmp_path)
    (fifth,) = load("rwku", "mia_forget", path=tmp_path)
    assert isinstance(first, Choice) and first.index == 1
    assert isinstance(second, Choice) and second.answer == "Nothing."
    assert isinstance(third, Pair) and third.answer_paraphrases == ("Austen",)
    assert isinstance(fourth, Pair) and fourth.subject == "boolean"
    assert isinstance(fifth, Text) and fifth.subject == "Ada Quill"


@WRITERS
def test_tinystories_without_its_blank_ones(tmp_path: Path, write: Any) -> None:
    rows = [{"text": "Once."}, {"text": " "}, {"text": "Twice."}]
    file = write(tmp_path / "data" / "validation-00000-of-00001-869c.parquet", rows)
    stories = load("tinystories", path=file)
    assert [s.passage for s in stories if isinstance(s, Text)] == ["Once.", "Twice."]
    assert len(load("tinystories", path=file, limit=1)) == 1


def test_shards_are_read_in_order(tmp_path: Path) -> None:
    for shard in (1, 0):
        rows = [{"text": f"Story {shard}"}]
        as_table(tmp_path / "data" / f"train-0000{shard}-of-00002-ab.parquet", rows)
    stories = load("tinystories", split="train", path=tmp_path)
    assert [s.passage for s in stories if isinstance(s, Text)] == ["Story 0", "Story 1"]
    assert len(provenances(stories)) == 2


# Where records come from


def test_a_local_file_is_named_by_its_hash(tmp_path: Path) -> None:
    one = as_lines(tmp_path / "one" / "forget01.json", [TOFU])
    two = as_lines(tmp_path / "two" / "forget01.json", [TOFU])
    (first,), (second,) = load("tofu", path=one), load("tofu", path=two)
    assert first.id == second.id == f"tofu/forget01/train@{first.provenance.sha256[:8]}:1"
    assert first.provenance.to_json()["commit"] is None
    assert first.source == "tofu"


def in_the_cache(folder: Path, commit: str, rows: Rows, ref: str | None = None) -> None:
    """A data set as the Hub's client leaves it in its cache."""
    repository = folder / "datasets--locuslab--TOFU"
    as_lines(repository / "snapshots" / commit / "forget10.json", rows)
    if ref:
        (repository / "refs").mkdir()
        (repository / "refs" / ref).write_text(commit)


def test_the_hub_is_asked_for_the_pinned_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pinned = DATASETS["tofu"].revision
    in_the_cache(tmp_path, pinned, [TOFU])
    (record,) = load("tofu")
    assert record.provenance.commit == record.provenance.revision == pinned
    assert record.provenance.file == "forget10.json"
    with pytest.raises(EnvironmentProblem, match=r"has no file retain90\.json"):
        load("tofu", "retain90")


def test_a_branch_is_resolved_to_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    in_the_cache(tmp_path, "0" * 40, [TOFU], ref="main")
    (record,) = load("tofu", revision="main")
    assert (record.provenance.revision, record.provenance.commit) == ("main", "0" * 40)


def test_no_hub_and_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="could not be fetched"):
        load("wmdp")


def test_every_data_set_is_pinned_to_a_commit() -> None:
    for dataset in DATASETS.values():
        assert len(dataset.revision) == 40
        assert set(dataset.revision) <= set("0123456789abcdef")


# The embedded patient


@pytest.mark.parametrize("task", ["personal", "harmful", "misinformation"])
def test_the_embedded_tasks(task: str) -> None:
    known = as_pairs(load("embedded", task, "dev"))
    assert len({record.id for record in known}) == len(known) > 60
    for record in known:
        assert record.paraphrases and record.subject
        assert record.answer not in record.wrong_answers
        assert len(set(record.wrong_answers)) == len(record.wrong_answers) == 5
        assert (record.truth is not None) == (task == "misinformation")
    forget, retain = load("embedded", task, "test"), load("embedded", task, "retain")
    check_disjoint(forget, retain)


def test_the_embedded_stories() -> None:
    stories = load("embedded", "stories", limit=3)
    assert len({s.passage for s in stories if isinstance(s, Text)}) == 3
    assert load("embedded", "world", "retain") == load("embedded", "world")


def test_the_embedded_patient_has_no_forget_pool_of_the_world() -> None:
    refused(lambda: load("embedded", "world", "dev"), "split", "dev", "Known: retain")
    refused(lambda: load("embedded", "weather"), "weather", "Known: personal")
    refused(lambda: load("embedded", "stories", "dev"), "Known: heldout")
    refused(lambda: load("embedded", path="x.jsonl"), "neither a file")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    refused(lambda: load("tofu", path=tmp_path / "none.jsonl"), "no file", "none.jsonl")
    refused(lambda: load("wmdp", path=tmp_path), "wmdp-bio/test-*.parquet")


def test_a_table_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = as_table(tmp_path / "test-00000-of-00001.parquet", [QUESTION])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(EnvironmentProblem, match="needs pyarrow"):
        load("wmdp", path=file)


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    error = refused(lambda: load("squad"), "no data set named squad")
    assert all(name in error.remedy for name in names())
    refused(lambda: load("tofu", "forget99"), "forget99", "Known: forget10")
    refused(lambda: load("mmlu", split="train"), "mmlu/all", "Known: test, validation, dev")
    refused(lambda: load("tofu", limit=0), "limit of 0")


@pytest.mark.parametrize(
    ("name", "row", "complaint"),
    [
        ("wmdp", {**QUESTION, "answer": 4}, '"answer" is 4, and there are 4 options'),
        ("wmdp", {**QUESTION, "answer": "B"}, "must be a whole number, not a text"),
        ("mmlu", {**QUESTION, "choices": ["Red"]}, "two options or more"),
        ("tofu", {"question": "Where?"}, 'the field "answer" is missing'),
        ("rwku", {**PROBE, "query": None}, 'the field "query" is missing'),
        ("tinystories", {"text": 3}, '"text" must be a text'),
    ],
)
def test_a_row_outside_the_schema(
    tmp_path: Path, name: str, row: dict[str, Any], complaint: str
) -> None:
    refused(lambda: load(name, path=as_lines(tmp_path / "r.jsonl", [row])), "r.jsonl:1:", complaint)


@pytest.mark.parametrize(
    ("config", "row", "complaint"),
    [
        ("utility_truthfulness", {"mc1_targets": 1}, "must be an object"),
        ("utility_truthfulness", {"mc1_targets": {"choices": ["a"], "labels": [0]}}, "one of 1"),
        ("utility_factuality", {"question": "Who?", "answers": []}, '"answers" is missing'),
    ],
)
def test_a_row_outside_the_schema_of_rwku(
    tmp_path: Path, config: str, row: dict[str, Any], complaint: str
) -> None:
    file = as_lines(tmp_path / "r.jsonl", [row])
    refused(lambda: load("rwku", config, path=file), "r.jsonl:1:", complaint)


def test_loading_data_needs_neither_torch_nor_pyarrow() -> None:
    code = (
        "from repair.bench.datasets.data import load; load('embedded', 'harmful', 'dev'); "
        "import sys; "
        "print(sorted({'torch', 'transformers', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
