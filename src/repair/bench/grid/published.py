"""STAMP, STAMP-LR and the paper's own form as the paper describes them: one row a prompt.

Knows layers, rows and the closed forms; knows neither budgets nor checks, unlike the product's
operation. The MLP outputs at each forget prompt's last token are moved toward the model's mean
refusal output; those at the kept prompts' last tokens stay. Source: RePAIR (arXiv 2604.12820).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from repair.activations import Rows, capture, edit_in_one_pass
from repair.errors import UsageError
from repair.patient import Patient
from repair.preparation import Preparation
from repair.stamp import LowRank, compress, paper_form, stamp, stamp_low_rank
from repair.types import LowRankUpdate

FORMS = ("stamp", "stamp-lr", "paper")


def redirected(
    patient: Patient,
    preparation: Preparation,
    form: str,
    forget: Sequence[str],
    retain: Sequence[str],
    *,
    layers: str = "one",
    strength: float = 1.0,
    ridge: float = 0.1,
    beta: float = 0.0,
    rank: float = 128,
) -> tuple[LowRankUpdate, ...]:
    """Updates that move the forget questions' last tokens toward the refusal.

    Args:
        form: one of ``FORMS``.
        layers: ``one`` is the layer with the largest cosine distance between the forget
            prompts' mean output and the refusal, as in the paper; ``all`` edits every layer.
        strength: 1 reaches the refusal output, 2 goes twice as far.
        beta: weight of the model's own second moment; the paper has none.
        rank: the most that STAMP-LR keeps.

    Raises:
        UsageError: an unknown form or choice of layers.
        NotFinite: the solve did not come out finite.
    """
    if form not in FORMS or layers not in ("one", "all"):
        raise UsageError(f"There is no form {form!r} at {layers!r} layers.")
    ids = [patient.prompt_ids([{"role": "user", "content": q}]) for q in (*forget, *retain)]
    rows = Rows.of(ids, [(i, len(row) - 1) for i, row in enumerate(ids)])
    moved = torch.arange(len(ids)) < len(forget)
    chosen = tuple(range(len(patient.layers)))
    if layers == "one":
        chosen = (farthest_layer(patient, preparation, rows, moved),)

    def target(layer: int, outputs: Tensor) -> Tensor:
        refusal = preparation.refusal[layer].to(outputs)
        toward = outputs + strength * (refusal - outputs)
        return torch.where(moved.to(outputs.device).unsqueeze(1), toward, outputs)

    def solve(layer: int, keys: Tensor, residual: Tensor) -> LowRank:
        statistics = preparation.statistics[layer]
        if form == "stamp-lr":
            low = stamp_low_rank(keys, residual, statistics=statistics, beta=beta, ridge=ridge)
            return low if low.rank <= rank else compress(low.b, low.a, int(rank))
        if form == "stamp":
            moment = statistics.matrix().to(keys.device)
            delta = stamp(keys, residual, second_moment=moment, beta=beta, ridge=ridge)
        else:
            current = patient.layers[layer].weight.float()
            delta = paper_form(keys, keys @ current.T + residual, ridge) - current
        identity = torch.eye(len(delta), device=delta.device)
        return LowRank(b=identity, a=delta)

    return edit_in_one_pass(patient, rows, chosen, target, solve)


def farthest_layer(patient: Patient, preparation: Preparation, rows: Rows, moved: Tensor) -> int:
    """The layer where the mean output of the moved rows is farthest from the refusal."""
    layers = range(len(patient.layers))
    outputs = capture(patient, rows, layers)[1]
    means = [outputs[layer][moved].mean(0) for layer in layers]
    likeness = [cosine_similarity(means[n], preparation.refusal[n].to(means[n]), 0) for n in layers]
    return min(layers, key=lambda n: float(likeness[n]))
