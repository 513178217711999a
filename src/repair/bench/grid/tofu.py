"""The common harness's files, ``TOFU_EVAL.json`` and ``TOFU_SUMMARY.json``, of one work.

Knows the names that OpenUnlearning (arXiv 2506.12618) gives its figures; how they are measured
stands in ``bench.scores``. Its per-record values are not kept: each figure has its interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repair.bench.grid.results import write_whole
from repair.bench.grid.works import Work
from repair.bench.metrics import Score
from repair.bench.scores import Material, Options, harness_report
from repair.patient import Patient

# Ours → the harness's. What the harness does not have stays under our name.
NAMES = {
    "forget_probability": "forget_Q_A_Prob",
    "forget_rouge_l": "forget_Q_A_ROUGE",
    "forget_paraphrase_rouge_l": "forget_Q_A_PARA_ROUGE",
    "forget_truth_ratio": "forget_truth_ratio",
    "forget_quality": "forget_quality",
    "forget_exact_memorization": "exact_memorization",
    "forget_extraction_strength": "extraction_strength",
    "retain_probability": "retain_Q_A_Prob",
    "retain_rouge_l": "retain_Q_A_ROUGE",
    "retain_truth_ratio": "retain_Truth_Ratio",
    "model_utility": "model_utility",
    "min_k_auc": "mia_min_k",
    "min_k_plus_plus_auc": "mia_min_k_plus_plus",
    "privleak": "privleak",
}
_REPLY_TOKENS = 32


def evaluation(patient: Patient, work: Work, oracle: Patient | None) -> dict[str, Score]:
    """Every figure that the work allows, under the harness's names.

    Raises:
        UsageError: the records lack what a figure needs.
    """
    material = Material(work.forget, work.retain)
    report = harness_report(
        patient, material, oracle=oracle, options=Options(reply_tokens=_REPLY_TOKENS)
    )
    return {NAMES.get(name, name): score for name, score in report.items()}


def write(folder: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Both files into a folder: all figures with their intervals, and the values alone."""
    every = {
        name: {"agg_value": s["mean"], "low": s["low"], "high": s["high"], "n": s["n"]}
        for name, s in found.items()
    }
    write_whole(folder / "TOFU_EVAL.json", every)
    values = {name: score["mean"] for name, score in found.items()}
    write_whole(folder / "TOFU_SUMMARY.json", values)
