"""Reports of the standard harnesses for one patient, each figure with its interval.

Knows plain records, a patient, and an oracle to compare with; knows nothing of where records
come from or of how the patient was edited, and changes neither patient.

A report is ``{name: {"mean", "low", "high", "n"}}``: the value, the ends of its 95 % confidence
interval, and how many records stand behind it. Means of values from 0 to 1 have Wilson's
interval; all else a percentile bootstrap over the records, seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Protocol

import torch
from torch import Tensor

from repair.bench import metrics
from repair.bench.likelihood import (
    Reading,
    answer_tokens,
    continuations,
    letter_logprobs,
    replies,
    user,
)
from repair.bench.metrics import Score, bootstrap_score, mean_score
from repair.errors import UsageError
from repair.types import Message, Probe
from repair.verify import recalls

# In these sets of TOFU the probability of an answer is its share of all options'.
OPTION_SETS = frozenset({"real_authors", "world_facts"})

Report = dict[str, Score]
QuestionAnswer = tuple[str | None, str]
Sides = tuple[list[Tensor], list[Tensor]]


class Asked(Protocol):
    """A question with its answer; any record with these fields will do.

    ``paraphrases`` are other wordings of the question, ``answer_paraphrases`` of the answer;
    ``wrong_answers`` are false ones of the same shape.
    """

    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def paraphrases(self) -> tuple[str, ...]: ...
    @property
    def answer_paraphrases(self) -> tuple[str, ...]: ...
    @property
    def wrong_answers(self) -> tuple[str, ...]: ...


class Lettered(Protocol):
    """A multiple-choice prompt that ends in "Answer:", and the index of the right option."""

    @property
    def prompt(self) -> str: ...
    @property
    def options(self) -> tuple[str, ...]: ...
    @property
    def index(self) -> int: ...


@dataclass(frozen=True)
class Passage:
    """A text's start and how it goes on: raw, or the words of the answer to ``question``."""

    start: str
    continuation: str
    question: str | None = None


@dataclass(frozen=True)
class Material:
    """Everything one report is made from; what is None is not asked for.

    ``holdout`` is like the forget set, seen by nobody; ``shots`` stand before KnowMem's questions.
    """

    forget: Sequence[Asked]
    retain: Sequence[Asked]
    real_authors: Sequence[Asked] | None = None
    world_facts: Sequence[Asked] | None = None
    holdout: Sequence[Asked] | None = None
    passages: Sequence[Passage] | None = None
    shots: Sequence[Asked] | None = None
    choices: Sequence[Lettered] | None = None


@dataclass(frozen=True)
class Options:
    """How much a patient may write, in tokens, and how intervals are drawn.

    The defaults are what TOFU (replies) and MUSE (the other two) allow.
    """

    reply_tokens: int = 200
    verbmem_tokens: int = 128
    knowmem_tokens: int = 32
    resamples: int = 1000
    seed: int = 0

    def bootstrap(self, statistic: Callable[..., float], *sizes: int) -> Score:
        return bootstrap_score(statistic, sizes, resamples=self.resamples, seed=self.seed)


DEFAULTS = Options()


def harness_report(
    patient: Reading,
    material: Material,
    *,
    oracle: Reading | None = None,
    options: Options = DEFAULTS,
) -> Report:
    """Every figure that the material allows; what is left of the forget set is ``forget_…``.

    Raises:
        UsageError: a set that is given has no records, or records lack what a figure needs.
        NotFinite: the patient's or the oracle's logits are NaN or infinite.
    """
    sets = {
        "retain": material.retain,
        "real_authors": material.real_authors,
        "world_facts": material.world_facts,
    }
    kept = {name: records for name, records in sets.items() if records is not None}
    forget = forget_scores(patient, material.forget, oracle=oracle, options=options)
    report = {f"forget_{name}": score for name, score in forget.items()}
    report |= utility_scores(patient, kept, options=options)
    if material.holdout is not None:
        seen, unseen = _pairs(material.forget), _pairs(material.holdout)
        report |= privacy_scores(patient, seen, unseen, oracle=oracle, options=options)
    if material.passages is not None:
        report["forget_verbmem"] = verbmem(patient, material.passages, options=options)
    if material.shots is not None:
        for name, records in (("forget", material.forget), ("retain", material.retain)):
            report[f"{name}_knowmem"] = knowmem(patient, records, material.shots, options=options)
    if material.choices is not None:
        report["choice_accuracy"] = choice_accuracy(patient, material.choices)
    return report


def forget_scores(
    patient: Reading,
    forget: Sequence[Asked],
    *,
    oracle: Reading | None = None,
    options: Options = DEFAULTS,
) -> Report:
    """What is left of the forget set.

    ``probability``, ``rouge_l`` (recall), ``exact_memorization``, ``extraction_strength``;
    ``paraphrase_rouge_l`` over the records with paraphrases, the mean over each one's;
    ``truth_ratio`` (min(R, 1/R)) with wrong answers, then ``quality`` with an oracle (n of both).

    Raises:
        UsageError: no records, or only some of them have wrong answers.
    """
    _filled("forget", forget)
    answers = answer_tokens(patient, _pairs(forget))
    report = {
        "probability": mean_score([metrics.probability(t.logprobs) for t in answers]),
        "rouge_l": mean_score(_rouge_l(patient, _pairs(forget), options)),
        "exact_memorization": mean_score([metrics.exact_memorization(t.hits) for t in answers]),
        "extraction_strength": mean_score([metrics.extraction_strength(t.hits) for t in answers]),
    }
    reworded = [record for record in forget if record.paraphrases]
    if reworded:
        pairs = [(question, r.answer) for r in reworded for question in r.paraphrases]
        found = iter(_rouge_l(patient, pairs, options))
        per_record = [[next(found) for _ in r.paraphrases] for r in reworded]
        report["paraphrase_rouge_l"] = mean_score([sum(v) / len(v) for v in per_record])
    if not _has_wrong_answers("forget", forget):
        return report
    ratios = [metrics.truth_ratio(*sides) for sides in _right_and_wrong(patient, forget)]
    report["truth_ratio"] = mean_score([metrics.forget_truth(ratio) for ratio in ratios])
    if oracle is not None:
        reference = [metrics.truth_ratio(*sides) for sides in _right_and_wrong(oracle, forget)]

        def quality(mine: Tensor, its: Tensor) -> float:
            return metrics.forget_quality([ratios[i] for i in mine], [reference[i] for i in its])

        report["quality"] = options.bootstrap(quality, len(ratios), len(reference))
    return report


def utility_scores(
    patient: Reading, sets: Mapping[str, Sequence[Asked]], *, options: Options = DEFAULTS
) -> Report:
    """What is kept: ``NAME_probability``, ``NAME_rouge_l``, ``NAME_truth_ratio`` of each set.

    The truth ratio is max(0, 1 − R), for sets with wrong answers. ``model_utility`` is the
    harmonic mean of all these means, over TOFU's three sets or whichever are given; it is left
    out where a set has no truth ratio.

    Raises:
        UsageError: no sets, an empty one, one where only some records have wrong answers, or
            one of ``OPTION_SETS`` where none has.
    """
    _filled("kept", sets)
    report: Report = {}
    columns: list[Tensor] = []
    for name, records in sets.items():
        _filled(name, records)
        values = _utility(patient, name, records, options)
        report |= {f"{name}_{measure}": mean_score(found) for measure, found in values.items()}
        if "truth_ratio" in values:
            columns.append(torch.tensor(list(values.values()), dtype=torch.float64))

    def utility(*indices: Tensor) -> float:
        means = [values[:, i].mean(-1) for values, i in zip(columns, indices, strict=True)]
        return metrics.harmonic_mean(torch.cat(means).tolist())

    if len(columns) == len(sets):
        sizes = [values.shape[1] for values in columns]
        report["model_utility"] = options.bootstrap(utility, *sizes)
    return report


def privacy_scores(
    patient: Reading,
    forget: Sequence[QuestionAnswer],
    holdout: Sequence[QuestionAnswer],
    *,
    oracle: Reading | None = None,
    options: Options = DEFAULTS,
) -> Report:
    """Can (question, answer) pairs of the forget set be told from others never seen?

    ``min_k_auc`` and ``min_k_plus_plus_auc`` (0.5: not at all; 1: always) and ``privleak``,
    against the oracle's AUC, else against 0.5. A question of None stands before a raw text,
    as in MUSE. The interval of ``privleak`` takes the oracle's AUC as it is; where that is 1
    there is no unit and ``privleak`` is left out. n counts both sets.

    Raises:
        UsageError: an empty set.
    """
    _filled("forget", forget)
    _filled("holdout", holdout)
    sides = zip(_membership(patient, forget), _membership(patient, holdout), strict=True)
    min_k, min_k_plus_plus = (metrics.win_matrix(seen, unseen) for seen, unseen in sides)
    reference = 0.5
    if oracle is not None:
        reference = metrics.auc(_membership(oracle, forget)[0], _membership(oracle, holdout)[0])

    def area(wins: Tensor) -> Callable[[Tensor, Tensor], float]:
        return lambda rows, columns: float(wins[rows][:, columns].mean())

    def leak(rows: Tensor, columns: Tensor) -> float:
        return metrics.privleak(area(min_k)(rows, columns), reference)

    statistics = {"min_k_auc": area(min_k), "min_k_plus_plus_auc": area(min_k_plus_plus)}
    if reference < 1:
        statistics["privleak"] = leak
    return {
        name: options.bootstrap(statistic, len(forget), len(holdout))
        for name, statistic in statistics.items()
    }


def verbmem(patient: Reading, passages: Sequence[Passage], *, options: Options = DEFAULTS) -> Score:
    """MUSE's verbatim memorisation: mean ROUGE-L F1 of greedy continuations.

    Raises:
        UsageError: no passages.
    """
    _filled("passages", passages)
    raw = [passage for passage in passages if passage.question is None]
    asked = [passage for passage in passages if passage.question is not None]
    limit, starts = options.verbmem_tokens, [passage.start for passage in asked]
    conversations = [user(passage.question or "") for passage in asked]
    found = continuations(patient, [p.start for p in raw], max_new_tokens=limit)
    found += replies(patient, conversations, prefixes=starts, max_new_tokens=limit)
    wanted = [passage.continuation for passage in (*raw, *asked)]
    return mean_score([metrics.rouge_l_f1(*texts) for texts in zip(wanted, found, strict=True)])


def knowmem(
    patient: Reading,
    records: Sequence[Asked],
    shots: Sequence[Asked],
    *,
    options: Options = DEFAULTS,
) -> Score:
    """MUSE's knowledge memorisation: mean ROUGE-L F1 of short answers after example turns.

    Raises:
        UsageError: no records, or no examples.
    """
    _filled("question", records)
    _filled("example", shots)
    before: list[Message] = []
    for shot in shots:
        before += [*user(shot.question), {"role": "assistant", "content": shot.answer}]
    conversations = [[*before, *user(record.question)] for record in records]
    found = replies(patient, conversations, max_new_tokens=options.knowmem_tokens)
    pairs = zip(records, found, strict=True)
    return mean_score([metrics.rouge_l_f1(record.answer, reply) for record, reply in pairs])


def choice_accuracy(patient: Reading, choices: Sequence[Lettered], *, chat: bool = True) -> Score:
    """Share of choices whose likeliest letter is the right one; ``chat`` as ``letter_logprobs``.

    Raises:
        UsageError: no choices, more than 26 options, or a right one that is not among them.
    """
    _filled("multiple-choice", choices)
    for number, choice in enumerate(choices, start=1):
        if not 0 <= choice.index < len(choice.options) <= len(ascii_uppercase):
            raise UsageError(
                f"Choice {number} has more than 26 options, or its right one is not among them."
            )
    letters = ascii_uppercase[: max(len(choice.options) for choice in choices)]
    prompts = [choice.prompt for choice in choices]
    found = letter_logprobs(patient, prompts, letters=letters, chat=chat)
    answers = [metrics.chosen(v[: len(c.options)]) for v, c in zip(found, choices, strict=True)]
    return mean_score([float(a == c.index) for a, c in zip(answers, choices, strict=True)])


# Parts


def _utility(
    patient: Reading, name: str, records: Sequence[Asked], options: Options
) -> dict[str, list[float]]:
    """Probability, ROUGE-L recall and, where it can be had, truth of every record of a set."""
    answers = answer_tokens(patient, _pairs(records))
    probabilities = [metrics.probability(tokens.logprobs) for tokens in answers]
    recall = _rouge_l(patient, _pairs(records), options)
    if not _has_wrong_answers(name, records):
        if name in OPTION_SETS:
            raise UsageError(f"The records of {name} have no wrong answers.", "Add them.")
        return {"probability": probabilities, "rouge_l": recall}
    sides = _right_and_wrong(patient, records)
    if name in OPTION_SETS:
        probabilities = [
            metrics.normalized_probability(p, [metrics.probability(w) for w in wrong])
            for p, (_, wrong) in zip(probabilities, sides, strict=True)
        ]
    truth = [metrics.kept_truth(metrics.truth_ratio(*side)) for side in sides]
    return {"probability": probabilities, "rouge_l": recall, "truth_ratio": truth}


def _right_and_wrong(patient: Reading, records: Sequence[Asked]) -> list[Sides]:
    """Of every record what the right answer's paraphrases (or itself) and the wrong ones get."""
    sides = [(r.answer_paraphrases or (r.answer,), r.wrong_answers) for r in records]
    pairs = [
        (record.question, answer)
        for record, (right, wrong) in zip(records, sides, strict=True)
        for answer in (*right, *wrong)
    ]
    scored = iter([tokens.logprobs for tokens in answer_tokens(patient, pairs)])
    return [([next(scored) for _ in r], [next(scored) for _ in w]) for r, w in sides]


def _has_wrong_answers(name: str, records: Sequence[Asked]) -> bool:
    having = [bool(record.wrong_answers) for record in records]
    if any(having) and not all(having):
        place = having.index(False) + 1
        raise UsageError(
            f"Record {place} of {name} has no wrong answers and others do.", "Add them."
        )
    return all(having)


def _membership(
    patient: Reading, pairs: Sequence[QuestionAnswer]
) -> tuple[list[float], list[float]]:
    """Min-40 % and Min-40 %++ of every pair."""
    scored = answer_tokens(patient, pairs)
    return (
        [metrics.min_k(t.answer_logprobs) for t in scored],
        [metrics.min_k_plus_plus(t.answer_logprobs, t.mean, t.deviation) for t in scored],
    )


def _rouge_l(patient: Reading, pairs: Sequence[tuple[str, str]], options: Options) -> list[float]:
    probes = [Probe("exact", question, answer) for question, answer in pairs]
    return recalls(patient, probes, max_new_tokens=options.reply_tokens)


def _pairs(records: Sequence[Asked]) -> list[tuple[str, str]]:
    return [(record.question, record.answer) for record in records]


def _filled(name: str, records: Sequence[object] | Mapping[str, object]) -> None:
    if not records:
        raise UsageError(f"The {name} set is empty.", "Give at least one record.")
