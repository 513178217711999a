"""The data sets by name: repository, pinned revision, files, and what their columns mean.

Knows schemas; nothing of where a file lies, how it is fetched or how its bytes are read.
The revisions are commits of the data sets on the Hugging Face Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from repair.bench.datasets.records import Choice, Form, Pair, Provenance, Record, Text, identity
from repair.errors import UsageError

_MEND = "Mend it there and try again."
_MMLU_SUBJECTS = """abstract_algebra anatomy astronomy business_ethics clinical_knowledge
college_biology college_chemistry college_computer_science college_mathematics college_medicine
college_physics computer_security conceptual_physics econometrics electrical_engineering
elementary_mathematics formal_logic global_facts high_school_biology high_school_chemistry
high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics
high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
high_school_us_history high_school_world_history human_aging human_sexuality international_law
jurisprudence logical_fallacies machine_learning management marketing medical_genetics
miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory
professional_accounting professional_law professional_medicine professional_psychology
public_relations security_studies sociology us_foreign_policy virology world_religions""".split()


@dataclass(frozen=True)
class Row:
    """One record as the file has it, and the checks that name the file and the line."""

    values: Mapping[str, Any]
    number: int
    provenance: Provenance

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that every record starts with."""
        p = self.provenance
        return {
            "id": identity(p.dataset, p.config, p.split, p.sha256, self.number),
            "provenance": p,
        }

    def fault(self, problem: str) -> UsageError:
        return UsageError(f"{self.provenance.file}:{self.number}: {problem}.", _MEND)

    def text(self, name: str) -> str:
        """A text that must be there and must not be blank."""
        value = self.required(name)
        if not isinstance(value, str):
            raise self.fault(f'"{name}" must be a text, not {_kind(value)}')
        if not value.strip():
            raise self.fault(f'"{name}" is blank')
        return value

    def optional(self, *names: str) -> str | None:
        """The first of these texts that is there."""
        for name in names:
            value = self.values.get(name)
            if isinstance(value, str):
                return value
            if value is not None:
                raise self.fault(f'"{name}" must be a text, not {_kind(value)}')
        return None

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, or one text alone; nothing where the field is absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self.fault(f'"{name}" must be a list of texts')
        return tuple(items)

    def index(self, name: str, count: int) -> int:
        """A whole number from 0 to ``count`` - 1."""
        value = self.required(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.fault(f'"{name}" must be a whole number, not {_kind(value)}')
        if not 0 <= value < count:
            raise self.fault(f'"{name}" is {value}, and there are {count} options')
        return value

    def required(self, name: str) -> Any:
        value = self.values.get(name)
        if value is None:
            raise self.fault(f'the field "{name}" is missing')
        return value


def _kind(value: Any) -> str:
    names = {str: "a text", bool: "a truth value", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


Parser = Callable[[Row], Record | None]


def pair(
    row: Row, question: str = "question", answer: str = "answer", form: Form = "question"
) -> Pair:
    """A user's own pair; MUSE knowmem and verbmem; RWKU's reasoning."""
    return Pair(
        **row.identity,
        question=row.text(question),
        answer=row.text(answer),
        paraphrases=row.texts("paraphrases"),
        answer_paraphrases=row.texts("answer_paraphrases"),
        wrong_answers=row.texts("wrong_answers"),
        subject=row.optional("subject", "task") or "",
        truth=row.optional("truth"),
        form=form,
    )


def tofu(row: Row) -> Pair:
    """TOFU, plain and perturbed; the real authors and world facts have four options."""
    answer = row.text("answer")
    options = [row.optional(f"option{i}") for i in range(1, 5)]
    wrong = row.texts("perturbed_answer") or tuple(o for o in options if o and o != answer)
    return Pair(
        **row.identity,
        question=row.text("question"),
        answer=answer,
        paraphrases=row.texts("paraphrased_question"),
        answer_paraphrases=row.texts("paraphrased_answer"),
        wrong_answers=wrong,
    )


def choice(row: Row) -> Choice:
    """WMDP, MMLU, and RWKU's selection of MMLU."""
    question, options = row.text("question"), row.texts("choices")
    if len(options) < 2:
        raise row.fault('"choices" needs two options or more')
    return Choice(
        **row.identity,
        question=question,
        options=options,
        index=row.index("answer", len(options)),
        subject=row.optional("subject", "task") or "",
    )


def truthful(row: Row) -> Choice:
    """RWKU's selection of TruthfulQA: ``mc1_targets`` has the choices and one label of 1."""
    targets = row.required("mc1_targets")
    if not isinstance(targets, dict):
        raise row.fault('"mc1_targets" must be an object')
    options, labels = targets.get("choices"), targets.get("labels")
    if (
        not isinstance(options, list)
        or not isinstance(labels, list)
        or len(options) != len(labels)
        or not all(isinstance(option, str) for option in options)
        or 1 not in labels
    ):
        raise row.fault('"mc1_targets" needs as many "labels" as "choices", and one of 1')
    return Choice(
        **row.identity,
        question=row.text("question"),
        options=tuple(options),
        index=labels.index(1),
        subject=row.optional("subject") or "",
    )


def trivia(row: Row) -> Pair:
    """RWKU's selection of TriviaQA: every one of ``answers`` is right."""
    answers = row.texts("answers")
    if not answers:
        raise row.fault('the field "answers" is missing or empty')
    return Pair(
        **row.identity,
        question=row.text("question"),
        answer=answers[0],
        answer_paraphrases=answers[1:],
        subject=row.optional("subject") or "",
    )


def probe(row: Row, form: Form = "question") -> Pair:
    """RWKU's probes; the third level's ``type`` is that of the attack."""
    return Pair(
        **row.identity,
        question=row.text("query"),
        answer=row.text("answer"),
        subject=row.text("subject"),
        category=row.optional("type") or "",
        form=form,
    )


def passage(row: Row) -> Text | None:
    """A corpus's text. Blank ones, of which TinyStories has some, are passed over."""
    text = row.required("text")
    if isinstance(text, str) and not text.strip():
        return None
    return Text(**row.identity, passage=row.text("text"), subject=row.optional("subject") or "")


_verbatim = partial(pair, question="prompt", answer="gt", form="continuation")
_blank = partial(probe, form="blank")


@dataclass(frozen=True)
class Config:
    """A part of a data set: its splits, the default one first, and what a row means.

    ``pattern`` is the path in the repository, with ``{config}``, ``{split}`` and wildcards.
    """

    parse: Parser
    splits: tuple[str, ...] = ("test",)
    pattern: str = "{config}/{split}-*.parquet"


@dataclass(frozen=True)
class Dataset:
    """A data set of the Hub; its first configuration is the default."""

    repository: str
    revision: str
    configs: Mapping[str, Config]


def _muse(revision: str, repository: str, more: Mapping[str, Config]) -> Dataset:
    return Dataset(
        repository,
        revision,
        {
            "knowmem": Config(pair, ("forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl")),
            "verbmem": Config(_verbatim, ("forget",)),
            "privleak": Config(passage, ("forget", "retain", "holdout")),
            "raw": Config(passage, ("forget", "retain1", "retain2", "holdout")),
            **more,
        },
    )


def _rwku(file: str, parse: Parser, split: str = "test") -> Config:
    return Config(parse, (split,), f"All/{file}.json")


_FOLDS = Config(passage, ("forget_1", "forget_2", "forget_3", "forget_4"))
_TOFU_CONFIGS = """forget10 forget05 forget01 retain90 retain95 retain99 full holdout10 holdout05
holdout01 real_authors world_facts forget10_perturbed forget05_perturbed forget01_perturbed
retain_perturbed real_authors_perturbed world_facts_perturbed""".split()

DATASETS: Mapping[str, Dataset] = {
    "wmdp": Dataset(
        "cais/wmdp",
        "8b85378e501fe9b3fb2694b04bcd2970bc7c7235",
        {name: Config(choice) for name in ("wmdp-bio", "wmdp-chem", "wmdp-cyber")},
    ),
    "mmlu": Dataset(
        "cais/mmlu",
        "c30699e8356da336a370243923dbaf21066bb9fe",
        {name: Config(choice, ("test", "validation", "dev")) for name in ("all", *_MMLU_SUBJECTS)},
    ),
    "tofu": Dataset(
        "locuslab/TOFU",
        "324592d84ae4f482ac7249b9285c2ecdb53e3a68",
        {name: Config(tofu, ("train",), "{config}.json") for name in _TOFU_CONFIGS},
    ),
    "muse-news": _muse(
        "506bd5b150b92814d45e4404a82f120ab2d748bf",
        "muse-bench/MUSE-News",
        {"scal": _FOLDS, "sust": _FOLDS},
    ),
    "muse-books": _muse("051ba90319e920d410d87cfdbd61f25843c1b892", "muse-bench/MUSE-Books", {}),
    "rwku": Dataset(
        "jinzhuoran/RWKU",
        "d72f493d481d1b0a9bdc6e869d32baeffad8904f",
        {
            "forget_level1": _rwku("forget_level1", _blank),
            "forget_level2": _rwku("forget_level2", probe),
            "forget_level3": _rwku("forget_level3", probe),
            "neighbor_level1": _rwku("neighbor_level1", _blank),
            "neighbor_level2": _rwku("neighbor_level2", probe),
            "mia_forget": _rwku("forget_mia", passage),
            "mia_retain": _rwku("retain_mia", passage),
            "utility_general": _rwku("retain_mmlu", choice),
            "utility_reason": _rwku("retain_bbh", pair),
            "utility_truthfulness": _rwku("truthful", truthful),
            "utility_factuality": _rwku("triviaqa", trivia),
            "train_original_passage": _rwku("passage", passage, "train"),
            "train_positive_llama3": _rwku("positive", passage, "train"),
        },
    ),
    "tinystories": Dataset(
        "roneneldan/TinyStories",
        "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
        {"default": Config(passage, ("validation", "train"), "data/{split}-*.parquet")},
    ),
}
