"""Hidden units that see one fact and nothing else, in closed form.

An MLP's hidden unit is h_j = act(g·x) (u·x). What an edit changes in W then reaches whatever else
makes the changed units active, and a few thousand facts share a few hundred directions. So the
edit takes units that the model hardly uses, and gives each a new gate and a new factor:

    g = κ (a − τ c),  u = H / (κ (1 − τ)) a,  so that h = H a·x (a·x − τ) / (1 − τ) where a·x > τ,

and 0 elsewhere. Here c·x ≈ 1 for almost every x (c = M⁻¹ μ, with the second moment M and mean μ of
the inputs x; inputs that were normed have such a c). Where c·x is less, the gate opens, but u·x
is next to nothing. a·x is 1 on average at the fact's n rows r, small elsewhere, and at the rows k
that are to stay no more than θ, a little less than τ:

    a = argmin E[(a·x)²] + w_R mean (a·r − 1)² + w_K Σ max(0, a·k − θ)²,   mean a·r = 1.

The rows beyond θ known, that is a linear system as wide as they are many; they are known after a
few rounds. Below θ a row costs nothing: what keeps neighbours further away than the unit needs it
brings strangers nearer, ten times as often active.

The units are sparse associative memory: a threshold where the output map alone is linear.
Sources: MLPs as keys and values (Geva et al. 2021); one unit for each mistake (T-Patcher, Huang
et al. 2023), which adds units and trains them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repair.patient import Patient
from repair.stamp import LowRank, Statistics
from repair.types import Edit

# τ: what a·x has to reach, by how many units the layer then has: half of the highest for the first,
# almost the highest for many. Of wordings that stand in no row 1 % stay below 0.6 where an answer
# begins; there a unit is 1e-5 of a whole one active on average at other facts, 1e-3 at a τ of 0.3.
# Within answers the tokens themselves are alike: all wordings score 0.75 and more, and the same
# words in stories and other answers up to 0.7, so there a low τ wins nothing.
HIGHEST, WITHIN = 0.5, 0.6
# What the rows that are to stay keep below the threshold (τ − θ), and the fact's own above it.
MARGIN = 0.15
# τ in root mean squares of a·x, at least: later layers see rows that the first has moved already to
# where the model does not know, and what tells those from the rest is at times mere noise.
CLEAR = 5.0
# κ: how steeply a unit opens. What lies 0.2 below the threshold gives 1e-3 of a whole activation.
STEEPNESS = 30.0
# H, as a multiple of the keys' length: one unit then outweighs all others of its row.
LOUDNESS = 3.0
# w_R and w_K, beside 1 for everything that the model reads.
OWN, KEPT = 0.3, 1.0
# Rounds at most until the rows beyond θ are known; three or four do.
ROUNDS = 12
# λ, as a share of the mean eigenvalue of M.
RIDGE = 0.002
# λ of the units' own columns, as a share of the mean diagonal of theirs: they hardly overlap.
SMALL = 1e-6
# μᵀ M⁻¹ μ is 1 where c·x is the same for every x; below this a unit's threshold would float.
STEADY = 0.9
# The share of a layer's units that edits may take, the least used first. Without the least used
# half of its units in the edited layers the embedded patient has KL 0.001, without 70 % 0.01.
MOST = 0.67


@dataclass(frozen=True)
class Inputs:
    """What one layer's MLP reads: the second moment M of x (Statistics), and its mean μ (d,)."""

    moment: Statistics
    mean: Tensor


@dataclass(frozen=True)
class Units:
    """New rows of W_gate and W_up (both k × d, fp32) for k hidden units, with their numbers."""

    index: Tensor
    gate: Tensor
    up: Tensor

    def solution(self, keys: Tensor, residual: Tensor, weights: Tensor) -> LowRank:
        """ΔW = B A in the units' columns alone: Bᵀ = (K_Jᵀ D K_J + λ I)⁻¹ K_Jᵀ D R.

        Letters as in ``repair.stamp``, K_J the units' columns of the keys.
        """
        own = keys[:, self.index.to(keys.device)].double().cpu()
        scaled = own * weights.double().cpu()[:, None]
        system = scaled.T @ own
        system.diagonal().add_(SMALL * float(system.diagonal().mean()))
        b = torch.linalg.solve(system, scaled.T @ residual.double().cpu()).T
        b = b.float().to(keys.device).contiguous()
        a = torch.zeros(len(self.index), keys.shape[1], device=keys.device)
        a[torch.arange(len(self.index)), self.index.to(keys.device)] = 1.0
        return LowRank(b, a)


def detect(
    x: Tensor,
    groups: Sequence[tuple[Tensor, float]],
    kept: Tensor,
    inputs: Inputs,
    free: Sequence[int],
    keys: Statistics,
) -> Units | None:
    """One unit for each group of rows that a unit can tell from the rest; None for none at all.

    The layer's inputs have to be ``steady``.

    Args:
        x: inputs of all rows (n × d).
        groups: (n,) bool each, the rows that are to make one unit active, and its lowest τ.
        kept: (n,) bool, rows that are to leave every unit closed.
        inputs: of this layer.
        free: units that may be used, the least used first.
        keys: C of this layer's keys h, for how long they are.
    """
    if len(free) < len(groups) or not groups:
        return None
    x = x.double().cpu()
    moment, constant = _constant(inputs)
    factor = torch.linalg.cholesky(moment)
    # Coordinates in which E[(a·x)²] is the length of a, squared.
    white = torch.linalg.solve_triangular(factor, x.T, upper=False).T
    found = list[tuple[float, Tensor]]()
    for rows, lowest in groups:
        a = _direction(white[rows], white[kept], lowest - MARGIN)
        level = max(lowest, CLEAR * float(a.norm()))
        if float((white[rows] @ a).min()) > level + MARGIN:
            found.append((level, a))
    if not found:
        return None
    tau = torch.tensor([level for level, _ in found], dtype=x.dtype)[:, None]
    coordinates = torch.stack([a for _, a in found])
    along = torch.linalg.solve_triangular(factor.T, coordinates.T, upper=True).T
    gate = STEEPNESS * (along - tau * constant)
    length = (float(keys.s.sum()) + (len(keys.u) - keys.rank) * keys.rest) ** 0.5
    up = LOUDNESS * length / (STEEPNESS * (1 - tau)) * along
    index = torch.tensor(list(free[: len(found)]))
    return Units(index, gate.float(), up.float().contiguous())


def steady(inputs: Inputs) -> bool:
    """Whether c·x is nearly the same for all that the layer reads, so that a threshold can hold."""
    _, constant = _constant(inputs)
    return float(constant @ inputs.mean.double().cpu()) >= STEADY


def _constant(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """M with its ridge (d × d), and c (d,), both fp64."""
    moment = inputs.moment.matrix().cpu()
    moment.diagonal().add_(RIDGE * float(moment.diagonal().mean()))
    return moment, torch.linalg.solve(moment, inputs.mean.double().cpu())


def _direction(own: Tensor, beside: Tensor, edge: float) -> Tensor:
    """a (d,) of the fact's rows ``own`` (n × d) and those to stay (k × d), all whitened by M.

    ``edge``: θ.
    """
    near, a = torch.zeros(len(beside), dtype=torch.bool), own.mean(0)
    for _ in range(ROUNDS):
        rows = torch.cat([own, beside[near]])
        mean, goal, weights = (
            torch.cat([own.new_full((len(own),), mine), own.new_full((int(near.sum()),), theirs)])
            for mine, theirs in ((1 / len(own), 0.0), (1.0, edge), (OWN / len(own), KEPT))
        )
        gram = rows @ rows.T
        system = weights[:, None] * gram
        system.diagonal().add_(1.0)
        # a is a sum of the rows: that for the goals, and the one that makes the mean 1.
        held, moved = torch.linalg.solve(system, torch.stack([weights * goal, mean], dim=1)).T
        seen = mean @ gram
        share = (1 - seen @ held) / (seen @ moved)
        a = (held + share * moved) @ rows
        beyond = beside @ a > edge
        if torch.equal(beyond, near):
            break
        near = beyond
    return a


def threshold(units: int, *, within: bool) -> float:
    """τ for a layer that then has so many units: the more there are, the less each may open.

    Args:
        within: for rows within an answer; without it where one begins.
    """
    return WITHIN if within else HIGHEST * (1 - 1 / max(2, units))


def used(edits: Iterable[Edit]) -> set[tuple[int, int]]:
    """The units, by layer and number, that these edits give new inputs."""
    return {
        (update.layer, int(j))
        for edit in edits
        for update in edit.updates
        if update.part == "gate"
        for j in update.b.any(dim=1).nonzero()
    }


def least_used(patient: Patient, layer: int, statistics: Statistics) -> list[int]:
    """Units of a layer that edits may take, the least used by the model first; ``MOST`` of all.

    How much a unit adds is C_jj ‖W e_j‖² on average over the keys that C stands for.
    """
    weight = patient.original(layer).float()
    energy = (statistics.u.square() @ (statistics.s - statistics.rest) + statistics.rest).cpu()
    order = (energy * weight.square().sum(0).cpu()).argsort().tolist()
    return list(order[: int(MOST * len(order))])
