"""The closed forms of ROME, MEMIT and AlphaEdit: keys and residuals in, a change ΔW = B A out.

Knows matrices only; nothing of models, layers or prompts. Letters as in ``repair.stamp``: rows
of K (n × m) are keys, rows of R (n × d) wanted minus today's outputs, C ≈ U diag(s) Uᵀ +
rest (I − U Uᵀ) is the second moment of the keys to keep. The papers write keys as columns.

    ROME       ΔW = r uᵀ / (uᵀ k),  u = C⁻¹ k
    MEMIT      ΔWᵀ = (λ C + Kᵀ K)⁻¹ Kᵀ R
    AlphaEdit  ΔWᵀ = (P (Kᵀ K + Kₚᵀ Kₚ) + μ I)⁻¹ P Kᵀ R

All three are solved in n × n, so that no m × m matrix is ever formed. Inside everything is
fp64, results are fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from repair.errors import NotFinite, UsageError
from repair.stamp import LowRank, Statistics

# Eigenvalues below this share of the largest are rounding: such a C has no inverse.
_NOISE = 1e-12


def rome_update(key: Tensor, residual: Tensor, statistics: Statistics) -> LowRank:
    """ROME's rank-one change, with which (W + ΔW) k = W k + r exactly.

    Of all changes that do so it is the one that moves the kept keys' outputs least.
    Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT"
    (arXiv 2202.05262), equation 2.

    Args:
        key: k* (m,).
        residual: r = v* − W k* (d,).

    Raises:
        NotFinite: C has no inverse, the key is 0, or a number is not finite.
    """
    k = _double(key[None], statistics)
    u = over_moment(k, statistics)
    r = _double(residual[None], statistics)
    return _finite(r.T / (u @ k.T), u)


def memit_update(
    keys: Tensor, residual: Tensor, statistics: Statistics, *, weight: float
) -> LowRank:
    """MEMIT's least squares over many keys at once, of rank n.

    With Q = (λ C)⁻¹: A = (I + K Q Kᵀ)⁻¹ K Q and B = Rᵀ. Source: Meng et al. 2023, "Mass-Editing
    Memory in a Transformer" (arXiv 2210.07229), equation 14.

    Args:
        keys: K (n × m).
        residual: R (n × d).
        weight: λ > 0, how many times C counts.

    Raises:
        UsageError: λ is not above 0.
        NotFinite: C has no inverse, or a number is not finite.
    """
    _check_positive("weight", weight)
    k, r = _double(keys, statistics), _double(residual, statistics)
    kq = over_moment(k, statistics) / weight
    system = kq @ k.T
    system.diagonal().add_(1.0)
    return _finite(r.T, _solve(system, kq))


def alphaedit_update(
    keys: Tensor,
    residual: Tensor,
    statistics: Statistics,
    *,
    threshold: float,
    ridge: float,
    earlier: Tensor | None = None,
) -> LowRank:
    """AlphaEdit's ridge solution inside the null space of C, of rank n.

    The solution X obeys X = P X, so that P may stand on both sides of the keys, and the system
    is that of the projected keys Z = [K; Kₚ] P: A are the first n rows of (Z Zᵀ + μ I)⁻¹ Z, and
    B = Rᵀ. Whatever P removes keeps its output exactly. Source: Fang et al. 2025, "AlphaEdit:
    Null-Space Constrained Knowledge Editing for Language Models" (arXiv 2410.02355),
    equation 14.

    Args:
        keys: K (n × m).
        residual: R (n × d).
        threshold: eigenvalues of C below it count as 0, in the units of h².
        ridge: μ > 0, in the units of h².
        earlier: Kₚ (p × m), the keys of earlier edits, whose outputs are to stay.

    Raises:
        UsageError: μ is not above 0, or no eigenvalue is below the threshold.
        NotFinite: a number is not finite.
    """
    _check_positive("ridge", ridge)
    rows = keys if earlier is None else torch.cat([keys, earlier.to(keys)])
    z = in_null_space(_double(rows, statistics), statistics, threshold)
    system = z @ z.T
    system.diagonal().add_(ridge)
    return _finite(_double(residual, statistics).T, _solve(system, z)[: len(keys)])


def mean_eigenvalue(statistics: Statistics) -> float:
    """tr(C) / m: the unit in which thresholds and ridges mean the same for every model."""
    m, r = statistics.u.shape
    return (float(statistics.s.double().sum()) + statistics.rest * (m - r)) / m


def over_moment(rows: Tensor, statistics: Statistics) -> Tensor:
    """Rows times C⁻¹ (n × m, fp64).

    Raises:
        NotFinite: C is singular, so that some directions were never seen.
    """
    u, s = statistics.basis, statistics.s.to(statistics.basis)
    floor = _NOISE * float(s.max()) if len(s) else 0.0
    complete = u.shape[1] == u.shape[0]
    if bool((s <= floor).any()) or (not complete and statistics.rest <= floor):
        raise NotFinite(
            "The second moment of the keys is singular and has no inverse.",
            "Take it from more text: several tokens for each unit of the MLP.",
        )
    inside = rows @ u
    if complete:
        return (inside / s) @ u.T
    return (rows - inside @ u.T) / statistics.rest + (inside / s) @ u.T


def in_null_space(rows: Tensor, statistics: Statistics, threshold: float) -> Tensor:
    """Rows times P (n × m, fp64), P onto the eigenvectors of C with a value below ``threshold``.

    Raises:
        UsageError: there is no such eigenvector.
    """
    u, small = statistics.basis, statistics.s.to(statistics.basis) < threshold
    m, r = u.shape
    outside = r < m and statistics.rest < threshold
    if not outside and not bool(small.any()):
        raise UsageError(
            f"No eigenvalue of the keys' second moment is below {threshold:g}.",
            "Raise AlphaEdit's threshold.",
        )
    if outside or r == m:
        large = u[:, ~small]
        return rows - (rows @ large) @ large.T
    return (rows @ u[:, small]) @ u[:, small].T


def _solve(system: Tensor, right: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(system)
    if int(failed):
        raise NotFinite("The system of the edit has no finite solution.")
    return torch.cholesky_solve(right, factor)


def _double(tensor: Tensor, statistics: Statistics) -> Tensor:
    """In fp64 where the basis lies: on the CPU where the device has no fp64."""
    return tensor.to(statistics.basis.device).double()


def _finite(b: Tensor, a: Tensor) -> LowRank:
    low = LowRank(b=b.float().contiguous(), a=a.float().contiguous())
    if not bool(torch.isfinite(low.b).all() and torch.isfinite(low.a).all()):
        raise NotFinite("The edit's numbers are not finite.", "Check the activations.")
    return low


def _check_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise UsageError(f"The setting {name} must be finite and above 0, not {value}.")
