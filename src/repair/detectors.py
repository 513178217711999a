"""Hidden units that see one fact and nothing else, in closed form.

An MLP's hidden unit is h_j = act(g·x) (u·x). What an edit changes in W then reaches whatever else
makes the changed units active, and a few thousand facts share a few hundred directions. So the
edit takes units that the model hardly uses, and gives each a new gate and a new factor:

    g = κ (a − τ c),   u = H / (κ (1 − τ)) c,   so that h = H (a·x − τ) / (1 − τ) where a·x > τ,

and 0 elsewhere. Here c·x ≈ 1 for every x (c = M⁻¹ μ, with the second moment M and mean μ of the
inputs x; inputs that were normed have such a c). a·x is 1 on average at the fact's n rows R, and
small elsewhere, by ridge regression against M and the k rows K that are to stay:

    a ∝ (M' + Rᵀ R / n)⁻¹ Rᵀ 1,   M' = w_M M + w_K Kᵀ K / k + λ I.

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

# τ: what a·x has to reach, by how many units the layer then has: 0.3 for the first, 0.5 for the
# sixth, almost 0.6 for many. A fact's own rows reach 0.9 and more; of unseen wordings 1 % stay
# below 0.4 and 7 % below 0.6. At other facts a unit is 6e-4 of a whole one active on average at a τ
# of 0.4, and 5e-5 at 0.6.
HIGHEST = 0.6
# κ: how steeply a unit opens. What lies 0.2 below the threshold gives 1e-3 of a whole activation.
STEEPNESS = 30.0
# H, as a multiple of the keys' length: one unit then outweighs all others of its row.
LOUDNESS = 3.0
# w_M and w_K, beside 1 for the fact's own rows.
ALL, KEPT = 100.0, 30.0
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
    """New rows of W_gate and W_up (both k × d, fp32) for k hidden units, with their numbers.

    ``rows`` (n,) bool: those that one of the units is to be active at.
    """

    index: Tensor
    gate: Tensor
    up: Tensor
    rows: Tensor

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
    groups: Sequence[Tensor],
    kept: Tensor,
    inputs: Inputs,
    free: Sequence[int],
    keys: Statistics,
    tau: float,
) -> Units | None:
    """One unit for each group of rows; None where the model has no room or no constant direction.

    Groups that no unit can tell from the rest are left out.

    Args:
        x: inputs of all rows (n × d).
        groups: (n,) bool each, the rows that are to make one unit active.
        kept: (n,) bool, rows that are to leave every unit closed.
        inputs: of this layer.
        free: units that may be used, the least used first.
        keys: C of this layer's keys h, for how long they are.
        tau: τ.
    """
    if len(free) < len(groups) or not groups:
        return None
    x = x.double().cpu()
    moment = inputs.moment.matrix().cpu()
    ridge = RIDGE * float(moment.diagonal().mean())
    moment.diagonal().add_(ridge)
    constant = torch.linalg.solve(moment, inputs.mean.double().cpu())
    if float(constant @ inputs.mean.double().cpu()) < STEADY:
        return None
    beside = x[kept]
    system = ALL * moment
    if len(beside):
        system += KEPT / len(beside) * beside.T @ beside
    factor = torch.linalg.cholesky(system)
    pairs = [(rows, _direction(x[rows], factor, tau)) for rows in groups]
    found = [(rows, a) for rows, a in pairs if a is not None]
    if not found:
        return None
    along = torch.stack([a for _, a in found])
    gate = STEEPNESS * (along - tau * constant)
    length = (float(keys.s.sum()) + (len(keys.u) - keys.rank) * keys.rest) ** 0.5
    loud = LOUDNESS * length / (STEEPNESS * (1 - tau))
    up = (loud * constant).expand_as(gate)
    index = torch.tensor(list(free[: len(found)]))
    rows = torch.stack([rows for rows, _ in found]).any(0)
    return Units(index, gate.float(), up.float().contiguous(), rows)


def _direction(own: Tensor, factor: Tensor, tau: float) -> Tensor | None:
    """a (d,): 1 on average over the rows ``own`` (n × d); None where one of them stays closed."""
    spread = torch.cholesky_solve(own.T, factor)
    within = own @ spread
    within.diagonal().add_(len(own))
    a = spread @ torch.linalg.solve(within, torch.ones(len(own), dtype=own.dtype))
    a = a / (own @ a).mean()
    return a if float((own @ a).min()) > tau else None


def threshold(units: int) -> float:
    """τ for a layer that then has so many units: the more there are, the less each may open."""
    return HIGHEST * (1 - 1 / max(2, units))


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
