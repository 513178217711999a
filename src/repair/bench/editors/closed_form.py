"""ROME, MEMIT and AlphaEdit with a refusal as the new target; nothing of metrics or data sets.

All three take the MLP as a memory: the key k is what enters its last linear map at the last
token of the subject, the value v what should leave it. v is found by gradient descent on a
vector added there, with all weights frozen; then the weights follow in closed form
(``bench.editors.solves``). Nothing of the patient is changed: the results are updates for
``patient.apply`` or ``patient.trial``.

Where we leave the authors' code, and why:
- a request is a chat turn; a prefix stands before the question within the user's message. 5
  prefixes serve both key and value, where ROME's key has 50;
- learning rate and bound of the search count in the residual stream, for ROME as well. Its
  bound of 4 times the MLP's output reaches nothing where that output is small: 30 beside a
  stream of 940 at layer 2 of the embedded patient;
- λ of MEMIT counts in the width m, threshold and ridge of AlphaEdit in the mean eigenvalue and
  the trace of C. The authors' absolute numbers mean something else at any other scale;
- default layers are shares of the depth, those of the authors' choices for GPT-2 XL.

Tried on the embedded patient with four facts, two of persons and two of hazards, neither MEMIT
nor AlphaEdit got a person's fact refused, and both hazards were. The closed forms wrote what
the search had found; even at a bound of 2 it found no vector at those names that says the
refusal. Layers, λ, ridge and bound are there to be tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from repair.bench.editors.solves import (
    alphaedit_update,
    mean_eigenvalue,
    memit_update,
    rome_update,
)
from repair.bench.editors.values import (
    TOGETHER,
    Case,
    Request,
    ValueSearch,
    block_of,
    find_values,
    mean_keys,
    outputs_at_subject,
    read_cases,
)
from repair.errors import UsageError
from repair.patient import Patient
from repair.stamp import LowRank, Statistics
from repair.types import LowRankUpdate

# (layer, keys (n × m), residual (n × d)) → ΔW of that layer.
Solver = Callable[[int, Tensor, Tensor], LowRank]

# Of GPT-2 XL's 48 layers the authors took 17 for ROME and 13 to 17 for MEMIT.
ROME_DEPTH = 0.36
SPREAD_DEPTH = (0.28, 0.36)
# λ over m. As kᵀ C⁻¹ k is m in the mean, a ratio moves a typical key by the same share of its
# way at any width. The authors' λ = 15,000 is 0.92 m for GPT-J. On the embedded patient, where
# C knows the subjects, a name went a quarter of its way with that: of four facts one was
# refused, with 0.01 m two, neighbours at a recall of 1.00 with either.
MEMIT_WEIGHT = 0.01

# The authors let ROME's value move further than MEMIT's.
ROME_SEARCH = ValueSearch(clamp=2.0)
SPREAD_SEARCH = ValueSearch()


def rome(
    patient: Patient,
    requests: Sequence[Request],
    refusal: str,
    statistics: Mapping[int, Statistics],
    *,
    layer: int | None = None,
    search: ValueSearch = ROME_SEARCH,
    prefixes: Sequence[str] | None = None,
) -> tuple[LowRankUpdate, ...]:
    """ROME: one rank-one change of one layer for each request, one request after the other.

    k* is the mean key over the bare question and those after ``prefixes``, v* = W k* + δ. Each
    later request sees the model as the earlier ones left it. Source: Meng et al. 2022, "Locating
    and Editing Factual Associations in GPT" (arXiv 2202.05262).

    Args:
        requests: (question, subject, answer); an empty subject stands for the whole question.
        refusal: what the patient is to say instead.
        statistics: C of each layer, ``Preparation.statistics``.
        layer: the edited layer; by default at 0.36 of the depth.
        prefixes: texts to stand before the question; by default ``random_prefixes``.

    Raises:
        UsageError: no requests, an empty refusal, a subject that is not in its question, or a
            layer that is not there.
        NotFinite: the search or the solve left the finite numbers.
    """
    (layer,) = _layers(patient, [int(ROME_DEPTH * len(patient.layers)) if layer is None else layer])
    cases = read_cases(patient, requests, refusal, prefixes)
    updates: tuple[LowRankUpdate, ...] = ()
    for case in cases:
        with patient.trial(updates):
            value = find_values(patient, layer, [case], search, at_mlp=True)
            keys = mean_keys(patient, [case], layer)
        change = rome_update(keys[0], value[0], statistics[layer])
        updates = (_joined(updates, LowRankUpdate(layer, change.b.cpu(), change.a.cpu(), keys)),)
    return updates


def memit(
    patient: Patient,
    requests: Sequence[Request],
    refusal: str,
    statistics: Mapping[int, Statistics],
    *,
    layers: Sequence[int] | None = None,
    weight: float | None = None,
    search: ValueSearch = SPREAD_SEARCH,
    prefixes: Sequence[str] | None = None,
) -> tuple[LowRankUpdate, ...]:
    """MEMIT: all requests at once, their change spread over a range of layers.

    The value is one of the residual stream behind the last of the layers. From the first to the
    last each layer takes an equal share of what is still missing, as the model stands after the
    layers before. Source: Meng et al. 2023, "Mass-Editing Memory in a Transformer"
    (arXiv 2210.07229).

    Args:
        layers: the edited layers; by default from 0.28 to 0.36 of the depth.
        weight: λ, how many times C counts; by default 0.01 times m.

    The other arguments and the errors are those of ``rome``.
    """

    def solve(layer: int, keys: Tensor, residual: Tensor) -> LowRank:
        share = MEMIT_WEIGHT * keys.shape[1] if weight is None else weight
        return memit_update(keys, residual, statistics[layer], weight=share)

    cases = read_cases(patient, requests, refusal, prefixes)
    return _spread(patient, cases, _span(patient, layers), search, solve)


def alphaedit(
    patient: Patient,
    requests: Sequence[Request],
    refusal: str,
    statistics: Mapping[int, Statistics],
    *,
    layers: Sequence[int] | None = None,
    threshold: float = 0.1,
    ridge: float = 1e-4,
    search: ValueSearch = SPREAD_SEARCH,
    prefixes: Sequence[str] | None = None,
) -> tuple[LowRankUpdate, ...]:
    """AlphaEdit: MEMIT's way over the layers, with changes in the null space of C alone.

    The outputs at the keys of the patient's active edits are kept as well, where these edits
    carry their keys. Source: Fang et al. 2025, "AlphaEdit: Null-Space Constrained Knowledge
    Editing for Language Models" (arXiv 2410.02355).

    Args:
        layers: the edited layers; by default from 0.28 to 0.36 of the depth.
        threshold: eigenvalues of C below this many times their mean count as 0.
        ridge: μ in units of tr(C), the mean squared norm of a key.

    The other arguments and the errors are those of ``rome``; also

    Raises:
        UsageError: no eigenvalue is below the threshold.
    """

    def solve(layer: int, keys: Tensor, residual: Tensor) -> LowRank:
        mean = mean_eigenvalue(statistics[layer])
        return alphaedit_update(
            keys,
            residual,
            statistics[layer],
            threshold=threshold * mean,
            ridge=ridge * mean * keys.shape[1],
            earlier=_earlier_keys(patient, layer),
        )

    cases = read_cases(patient, requests, refusal, prefixes)
    return _spread(patient, cases, _span(patient, layers), search, solve)


def _spread(
    patient: Patient,
    cases: Sequence[Case],
    layers: Sequence[int],
    search: ValueSearch,
    solve: Solver,
) -> tuple[LowRankUpdate, ...]:
    """Bring the residual stream behind the last layer to its values, a share in each layer."""
    block = block_of(patient, layers[-1])
    groups = [cases[i : i + TOGETHER] for i in range(0, len(cases), TOGETHER)]
    wanted = torch.cat([find_values(patient, layers[-1], group, search) for group in groups])
    wanted += outputs_at_subject(patient, block, cases)
    updates: tuple[LowRankUpdate, ...] = ()
    for done, layer in enumerate(layers):
        with patient.trial(updates):
            keys = mean_keys(patient, cases, layer)
            missing = wanted - outputs_at_subject(patient, block, cases)
        change = solve(layer, keys, missing / (len(layers) - done))
        updates += (LowRankUpdate(layer, change.b.cpu(), change.a.cpu(), keys),)
    return updates


def _joined(updates: tuple[LowRankUpdate, ...], new: LowRankUpdate) -> LowRankUpdate:
    """All changes of one layer as one, its rank the sum of theirs."""
    every = (*updates, new)
    keys = [update.keys for update in every if update.keys is not None]
    return LowRankUpdate(
        new.layer,
        torch.cat([update.b for update in every], dim=1),
        torch.cat([update.a for update in every]),
        torch.cat(keys),
    )


def _earlier_keys(patient: Patient, layer: int) -> Tensor | None:
    found = [
        update.keys
        for edit in patient.active
        for update in edit.updates
        if update.layer == layer and update.keys is not None
    ]
    return torch.cat(found) if found else None


def _span(patient: Patient, layers: Sequence[int] | None) -> list[int]:
    if layers is None:
        first, last = (int(share * len(patient.layers)) for share in SPREAD_DEPTH)
        layers = range(first, last + 1)
    return _layers(patient, layers)


def _layers(patient: Patient, layers: Sequence[int]) -> list[int]:
    depth = len(patient.layers)
    outside = [layer for layer in layers if not 0 <= layer < depth]
    if outside or not layers:
        raise UsageError(
            f"There is no layer {outside[0]} of {depth}." if outside else "No layer is named.",
            f"Name layers from 0 to {depth - 1}.",
        )
    return sorted(set(layers))
