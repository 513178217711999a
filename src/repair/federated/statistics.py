"""Sufficient statistics of one party's rows at one layer, and the joint change from all of them.

Knows matrices only. Letters as in ``repair.stamp``. For n rows, √D K and √D R enter the solution

    ΔWᵀ = (Σ Kᵀ D K + β C + λ I)⁻¹ Σ Kᵀ D R

through Kᵀ D K and Kᵀ D R alone. A party sends either these products (*moments*, which can be
added up under masks or with noise), or, smaller, *factors*: with the singular value decomposition
√D K = Q S Vᵀ, the rows S Vᵀ and Qᵀ √D R have the same two products, and no row is one of a text.
All is fp64, for β C / λ magnifies what rounding left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repair.errors import BadMessage, NotFinite
from repair.stamp import LowRank, Statistics, compress, stamp, stamp_low_rank

# Squares of singular values below this share of the largest are rounding.
_NOISE = 1e-24
# Singular values of a change in fp32 below this share of the largest are, too.
_ROUNDING = 1e-6
# A party's trace of Kᵀ D K may be so many times that of C: some thousand rows of weight 16.
LARGEST_ENERGY = 1e6
_REMEDY = "The edit was not made; ask the parties to check their activations."


@dataclass(frozen=True)
class Terms:
    """What every party's statistic at a layer has to look like.

    ``width`` is m, ``outputs`` is d; ``energy`` is the trace of C, ``size`` the squared length
    of a usual output: a statistic that is out of all proportion to these is refused.
    """

    width: int
    outputs: int
    energy: float
    size: float


@dataclass(frozen=True)
class Factors:
    """``keys`` (k × m) and ``residual`` (k × d), fp64, rows turned so that none is a token's."""

    keys: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Moments:
    """``second`` Kᵀ D K (m × m) and ``cross`` Kᵀ D R (m × d), fp64."""

    second: Tensor
    cross: Tensor


def factors(keys: Tensor, residual: Tensor, weights: Tensor) -> Factors:
    """The smallest rows with the products of K (n × m), R (n × d) and w (n,)."""
    k, r = _weighted(keys, residual, weights)
    q, s, v = torch.linalg.svd(k, full_matrices=False)
    alive = s.square() > _NOISE * s[:1].square()
    return Factors(s[alive, None] * v[alive], q[:, alive].T @ r)


def moments(keys: Tensor, residual: Tensor, weights: Tensor) -> Moments:
    """Both products of K (n × m), R (n × d) and w (n,)."""
    k, r = _weighted(keys, residual, weights)
    return Moments(k.T @ k, k.T @ r)


def checked_factors(found: Factors, terms: Terms) -> Factors:
    """The same factors, if they can be believed.

    Raises:
        BadMessage: another shape or type, more rows than columns, NaN or infinity, or a size out
            of all proportion.
    """
    k, r = found.keys, found.residual
    fits = k.ndim == 2 and 1 <= k.shape[0] <= terms.width == k.shape[1]
    if not fits or r.shape != (k.shape[0], terms.outputs):
        wanted = f"(k, {terms.width}) and (k, {terms.outputs}) with k up to {terms.width}"
        raise BadMessage(f"sent factors {_shape(k)} and {_shape(r)}, not {wanted}")
    _check_numbers(k, r)
    _check_size(float(k.square().sum()), float(r.square().sum()), terms)
    return found


def checked_moments(found: Moments, terms: Terms, *, noisy: bool = False) -> Moments:
    """The same moments, if they can be believed; ``noisy`` ones need not be semidefinite.

    Raises:
        BadMessage: another shape or type, NaN or infinity, no symmetric positive semidefinite
            second moment, or a size out of all proportion.
    """
    shapes = (terms.width, terms.width), (terms.width, terms.outputs)
    if (found.second.shape, found.cross.shape) != shapes:
        got = f"{_shape(found.second)} and {_shape(found.cross)}"
        raise BadMessage(f"sent moments {got}, not {shapes[0]} and {shapes[1]}")
    _check_numbers(found.second, found.cross)
    if noisy:
        return found
    energy = float(found.second.trace())
    if not torch.allclose(found.second, found.second.T, rtol=1e-9, atol=1e-9 * abs(energy)):
        raise BadMessage("sent a second moment that is not symmetric")
    if float(torch.linalg.eigvalsh(found.second)[0]) < -1e-6 * max(abs(energy), 1.0):
        raise BadMessage("sent a second moment that is not positive semidefinite")
    # ‖Kᵀ R‖² ≤ ‖K‖² ‖R‖², so this is what R has at least.
    least = float(found.cross.square().sum()) / max(energy, 1e-12)
    _check_size(energy, least, terms)
    return found


def joint_change(
    parts: Sequence[Factors], kept: Statistics, *, beta: float, ridge: float, rank: int
) -> LowRank:
    """ΔW of the rows of all parties, from their factors.

    Raises:
        NotFinite: it has no finite solution.
    """
    keys = torch.cat([part.keys for part in parts])
    residual = torch.cat([part.residual for part in parts])
    if len(keys) <= keys.shape[1]:
        low = stamp_low_rank(keys, residual, statistics=kept, beta=beta, ridge=ridge)
    else:
        delta = stamp(keys, residual, second_moment=kept.matrix(), beta=beta, ridge=ridge)
        low = LowRank(torch.eye(len(delta)), delta)
    return _shortened(low, rank)


def change_of_moments(
    total: Moments, kept: Statistics, *, beta: float, ridge: float, rank: int, noisy: bool = False
) -> LowRank:
    """ΔW of the rows of all parties, from the sum of their moments.

    ``noisy`` moments are first made positive semidefinite, which costs no privacy.

    Raises:
        NotFinite: it has no finite solution.
    """
    second = total.second
    if noisy:
        values, vectors = torch.linalg.eigh((second + second.T) / 2)
        second = (vectors * values.clamp(min=0.0)) @ vectors.T
    system = second + beta * kept.matrix().to(second.device)
    system.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(system)
    if int(failed):
        raise NotFinite("The joint system has no finite solution.", _REMEDY)
    delta = torch.cholesky_solve(total.cross, factor).T.float()
    return _shortened(LowRank(torch.eye(len(delta)), delta), rank)


def _shortened(low: LowRank, rank: int) -> LowRank:
    """The same change without directions that are rounding, of ``rank`` at most."""
    best = compress(low.b, low.a, rank)
    # Both factors carry the square root of the singular values, largest first.
    sizes = best.b.square().sum(0)
    count = max(1, int((sizes > _ROUNDING * sizes[0]).sum()))
    return LowRank(best.b[:, :count].contiguous(), best.a[:count].contiguous())


def _weighted(keys: Tensor, residual: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    root = weights.cpu().double().sqrt()[:, None]
    return root * keys.cpu().double(), root * residual.cpu().double()


def _check_numbers(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.dtype != torch.float64:
            raise BadMessage(f"sent {tensor.dtype} where torch.float64 belongs")
        if not bool(torch.isfinite(tensor).all()):
            raise BadMessage("sent NaN or infinity")


def _check_size(energy: float, size: float, terms: Terms) -> None:
    if not (energy <= LARGEST_ENERGY * terms.energy and size <= LARGEST_ENERGY * terms.size):
        raise BadMessage("sent numbers out of all proportion to the model's activations")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
