"""STAMP in closed form: keys and wanted outputs in, the change of one weight matrix out.

Knows matrices only; nothing of models, layers, prompts or devices beyond where its input lies.

Letters, for one linear map o = W h with W (d × m) and n rows (token positions):
K (n × m) the keys h; R (n × d) the wanted minus today's outputs; D = diag(w) row weights;
C (m × m) the second moment of keys to be kept, β its weight; λ the ridge. With them

    STAMP      ΔWᵀ = (Kᵀ D K + β C + λ I)⁻¹ Kᵀ D R                      O(m³)
    STAMP-LR   P = (β C + λ I)⁻¹,  G = I + K P Kᵀ,  A = G⁻¹ K P,  B = Rᵀ,  ΔW = B A
               where C ≈ U diag(s) Uᵀ + rest (I − U Uᵀ), r columns     O(n m (n + r))

Results are fp32 on the keys' device; inside, everything is fp64. Measured with λ from 0.01 to 1
and β s / λ up to 6e4, fp32 erred by 2e-4 to 9e-2 in the full form and by up to 3e-3 in the
low-rank one (repeated rows, n > m), and lost positive definiteness at smaller ridges; in fp64
the two agree to 2e-7 at every ridge tried.

Source: RePAIR (arXiv 2604.12820) for the redirection; the change form of the ridge solution
replaces the paper's own, which ``paper_form`` keeps for comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from repair.errors import NotFinite

# Rows of keys turned to fp64 at a time, so that a long retain text needs little memory.
_CHUNK = 4096
# Eigenvalues of a second moment below this share of the largest are rounding, not directions.
_NOISE = 1e-12
_REMEDY = "Raise the ridge, or check the activations for overflow."


@dataclass(frozen=True)
class Statistics:
    """The keys to be kept: C ≈ U diag(s) Uᵀ, both fp32 on one device.

    ``u`` (m × r) has orthonormal columns; ``s`` (r,) holds eigenvalues of C, largest first.
    ``rest`` is the mean of the eigenvalues left out, taken for each direction outside U, so
    that C ≈ U diag(s) Uᵀ + rest (I − U Uᵀ) (probabilistic PCA, Tipping and Bishop 1999).
    The first use keeps a copy of ``u`` in fp64.
    """

    u: Tensor
    s: Tensor
    rest: float = 0.0

    @property
    def rank(self) -> int:
        return self.s.shape[0]

    @cached_property
    def basis(self) -> Tensor:
        """U (m × r) in fp64, on the CPU where its device has no fp64.

        Columns rounded to fp32 are orthogonal to 1e-7 only, and P magnifies that by β s / λ:
        1e-4 of ΔW at 1e6. One Newton step toward the nearest orthonormal matrix squares it.
        """
        u = _double(self.u)
        return 1.5 * u - 0.5 * u @ (u.T @ u)

    def plus(self, rows: Tensor, rank: int) -> Statistics:
        """The statistics of C + Fᵀ F for ``rows`` F (n × m), of at most ``rank`` columns.

        Exact up to that rank; what falls away raises ``rest`` by its mean. Raises ValueError
        for rows of another width, NotFinite for NaN or infinity among them.
        """
        _check_matrix("rows", rows)
        _check_rank(rank)
        width = self.u.shape[0]
        if rows.shape[1] != width:
            raise ValueError(f"rows {_shape(rows)} do not fit keys of width {width}")
        inside = (_double(self.s) - self.rest).clamp(min=0.0).sqrt()
        factor = torch.cat([self.basis * inside, _double(_finite(rows)).to(self.basis.device).T], 1)
        if factor.shape[1] > width:
            s, u = _leading(factor @ factor.T, rank)
        else:
            s, v = _leading(factor.T @ factor, rank)
            u, _ = torch.linalg.qr(factor @ v)
        rest = self.rest + _rest(factor.square().sum(), s, width)
        made = Statistics(_single(u, rows.device), _single(s + self.rest, rows.device), rest)
        made.__dict__["basis"] = u  # In fp64 it is orthonormal already.
        return made

    def matrix(self) -> Tensor:
        """C (m × m) in fp64: rounded to fp32 it may stop being positive semidefinite."""
        u = self.basis
        inside = (u * (_double(self.s) - self.rest)) @ u.T
        inside.diagonal().add_(self.rest)
        return inside


@dataclass(frozen=True)
class LowRank:
    """A change ΔW = B A in fp32: ``b`` (d × n), ``a`` (n × m); a LoRA with alpha = rank."""

    b: Tensor
    a: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def matrix(self) -> Tensor:
        """ΔW (d × m) in fp32."""
        return self.b @ self.a


def second_moment(keys: Tensor) -> Tensor:
    """C = Kᵀ K / N of ``keys`` (N × m), as (m × m) in fp64 on the keys' device.

    On a device without fp64 the result lies on the CPU.

    Raises:
        ValueError: ``keys`` is not a matrix or has no rows.
    """
    _check_matrix("keys", keys)
    width = keys.shape[1]
    total = _double(keys[:0]).new_zeros(width, width)
    for start in range(0, keys.shape[0], _CHUNK):
        rows = _double(keys[start : start + _CHUNK])
        total += rows.T @ rows
    return total / keys.shape[0]


def low_rank_statistics(keys: Tensor, rank: int) -> Statistics:
    """The best rank-``rank`` C of ``keys`` (N × m), without an m × m matrix when N ≤ m.

    The result has fewer columns when the keys span fewer directions.

    Raises:
        ValueError: ``keys`` is not a matrix or has no rows, or ``rank`` < 1.
        NotFinite: ``keys`` hold NaN or infinity.
    """
    _check_matrix("keys", keys)
    count, width = keys.shape
    if count > width:
        return _truncate(second_moment(keys), rank, keys.device)
    rows = _double(keys)
    s, v = _leading(rows @ rows.T / count, rank)
    # Kᵀ V has orthogonal columns of falling length; QR scales them and, going from the
    # strongest on, takes the rounding out of the weak ones.
    u, _ = torch.linalg.qr(rows.T @ v)
    trace = rows.square().sum() / count
    return Statistics(_single(u, keys.device), _single(s, keys.device), _rest(trace, s, width))


def low_rank_of_moment(moment: Tensor, rank: int) -> Statistics:
    """The best rank-``rank`` approximation of a given C ``moment`` (m × m).

    Raises:
        ValueError: ``moment`` is not square, or ``rank`` < 1.
        NotFinite: ``moment`` holds NaN or infinity.
    """
    _check_matrix("moment", moment)
    if moment.shape[0] != moment.shape[1]:
        raise ValueError(f"moment must be square, not {_shape(moment)}")
    return _truncate(_double(moment), rank, moment.device)


def sketch(keys: Tensor, weights: Tensor, rank: int) -> Tensor:
    """F (r × m) in fp32 with Fᵀ F ≈ Kᵀ D K, the best of its rank r ≤ ``rank``.

    Raises:
        ValueError: shapes that do not fit, or ``rank`` < 1.
        NotFinite: the keys hold NaN or infinity.
    """
    _check_matrix("keys", keys)
    k, _ = _weighted(keys, keys, weights)
    if len(k) <= k.shape[1]:
        return _single(_leading(k @ k.T, rank)[1].T @ k, keys.device)
    values, u = _leading(k.T @ k, rank)
    return _single(values.sqrt()[:, None] * u.T, keys.device)


def stamp(
    keys: Tensor,
    residual: Tensor,
    *,
    second_moment: Tensor,
    beta: float,
    ridge: float,
    weights: Tensor | None = None,
) -> Tensor:
    """ΔW (d × m) in fp32: the full form, by one Cholesky solve of an m × m system.

    Args:
        keys: K (n × m), any floating dtype.
        residual: R (n × d), wanted minus today's outputs.
        second_moment: C (m × m), symmetric positive semidefinite; fp64 is used as it is.
        beta: weight of C, at least 0.
        ridge: λ > 0, in the units of h².
        weights: w (n,) ≥ 0, one a row; None means 1 each.

    Raises:
        ValueError: shapes that do not fit, or a number out of range.
        NotFinite: the result, or a number given, is NaN or infinite, or the system is not
            positive definite.
    """
    _check_problem(keys, residual, beta, ridge, weights)
    width = keys.shape[1]
    if second_moment.shape != (width, width):
        raise ValueError(
            f"second_moment {_shape(second_moment)} does not fit keys {_shape(keys)}: "
            f"expected ({width}, {width})"
        )
    k, r = _weighted(keys, residual, weights)
    system = k.T @ k + beta * _double(second_moment).to(k.device)
    system.diagonal().add_(ridge)
    return _finite(_single(_solve(system, k.T @ r).T, keys.device))


def stamp_low_rank(
    keys: Tensor,
    residual: Tensor,
    *,
    statistics: Statistics,
    beta: float,
    ridge: float,
    weights: Tensor | None = None,
) -> LowRank:
    """ΔW = B A of rank n in fp32, equal to ``stamp`` for the C of the statistics.

    Never forms an m × m or d × m matrix: its memory is O(m (n + r)). Rows whose residual is 0
    hold their place and take up no rank: their column of B is 0. For the rest see ``stamp``.
    """
    _check_problem(keys, residual, beta, ridge, weights)
    u, s = statistics.u, statistics.s
    if u.ndim != 2 or u.shape[0] != keys.shape[1] or s.shape != u.shape[1:]:
        raise ValueError(
            f"statistics u {_shape(u)}, s {_shape(s)} do not fit keys {_shape(keys)}: "
            f"expected ({keys.shape[1]}, r) and (r,)"
        )
    k, r = _weighted(keys, residual, weights)
    basis = statistics.basis.to(k.device)
    inside, outside = beta * _double(s).to(k.device) + ridge, beta * statistics.rest + ridge
    # K P Kᵀ from K U alone: only the rows that get a rank are multiplied back to width m.
    z, share = k @ basis, 1 - outside / inside
    g = torch.addmm(k @ k.T, z * share, z.T, alpha=-1.0).div_(outside)
    g.diagonal().add_(1.0)
    alive = (r != 0).any(1)
    if not alive.any():
        alive[:1] = True
    identity = torch.eye(len(g), dtype=g.dtype, device=g.device)[:, alive]
    solved = _solve(g, identity).T
    a = torch.addmm(solved @ k, (solved @ z) * share, basis.T, alpha=-1.0).div_(outside)
    return LowRank(
        b=_finite(_single(r[alive].T, keys.device)),
        a=_finite(_single(a, keys.device)),
    )


def paper_form(x: Tensor, o_star: Tensor, ridge: float) -> Tensor:
    """The paper's own W_new (d × m) = ((Xᵀ X + λ I)⁻¹ Xᵀ O*)ᵀ in fp32, for comparison only.

    It shrinks W toward 0: whatever ``x`` does not span is lost, and even O* = X Wᵀ does not
    give W back. ``stamp`` shrinks the change toward 0 instead, and so leaves W alone there.

    Args:
        x: X (n × m), the keys of all rows, those to be kept included.
        o_star: O* (n × d), the outputs wanted of them.
        ridge: λ > 0.

    Raises:
        ValueError: shapes that do not fit, or ``ridge`` ≤ 0.
        NotFinite: the result is NaN or infinite.
    """
    _check_problem(x, o_star, 0.0, ridge, None)
    n, m = x.shape
    # It is the change form with W = 0 and nothing kept, so the smaller system will do.
    if n > m:
        return stamp(x, o_star, second_moment=x.new_zeros(m, m), beta=0.0, ridge=ridge)
    nothing = Statistics(u=x.new_zeros(m, 0), s=x.new_zeros(0))
    return stamp_low_rank(x, o_star, statistics=nothing, beta=0.0, ridge=ridge).matrix()


def compress(b: Tensor, a: Tensor, rank: int) -> LowRank:
    """The best rank-``rank`` approximation of B A, from ``b`` (d × n) and ``a`` (n × m).

    Exact in the Frobenius norm (Eckart-Young) and never forms B A: QR of both factors, then
    the singular values of an n × n matrix at most. Both factors get the square root of the
    singular values, so that neither overflows a half-precision export. The result's rank is
    min(rank, d, n, m).

    Raises:
        ValueError: shapes that do not fit, or ``rank`` < 1.
        NotFinite: a factor holds NaN or infinity.
    """
    _check_matrix("b", b)
    _check_matrix("a", a)
    if b.shape[1] != a.shape[0]:
        raise ValueError(f"b {_shape(b)} and a {_shape(a)} do not share their inner size")
    _check_rank(rank)
    qb, rb = torch.linalg.qr(_finite(b.float()))
    qa, ra = torch.linalg.qr(_finite(a.float()).T)
    u, s, vt = torch.linalg.svd(rb @ ra.T, full_matrices=False)
    root = s[:rank].sqrt()
    return LowRank(
        b=_finite(qb @ (u[:, :rank] * root)).contiguous(),
        a=_finite((root[:, None] * vt[:rank]) @ qa.T).contiguous(),
    )


def _truncate(moment: Tensor, rank: int, device: torch.device) -> Statistics:
    s, u = _leading(moment, rank)
    return Statistics(_single(u, device), _single(s, device), _rest(moment.trace(), s, len(moment)))


def _rest(trace: Tensor, s: Tensor, width: int) -> float:
    """The mean of the eigenvalues outside the kept ones."""
    left = max(0.0, float(trace - s.sum()))
    return left / max(1, width - len(s))


def _leading(symmetric: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The ``rank`` largest eigenvalues above rounding, with eigenvectors as columns."""
    _check_rank(rank)
    values, vectors = torch.linalg.eigh(_finite(symmetric))
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    keep = values > max(_NOISE * float(values[0]), 0.0)
    return values[keep], vectors[:, keep]


def _solve(system: Tensor, right: Tensor) -> Tensor:
    """Solve a symmetric positive definite system in fp64, or refuse."""
    factor, failed = torch.linalg.cholesky_ex(system)
    if int(failed):
        raise NotFinite("The system of the edit has no finite solution.", _REMEDY)
    if right.shape[1] > system.shape[0]:
        return torch.cholesky_inverse(factor) @ right  # 5.5 ms for 13 ms at 300 by 1024
    return torch.cholesky_solve(right, factor)


def _weighted(keys: Tensor, residual: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """√D K and √D R in fp64: with them the unweighted equations are the weighted ones."""
    k = _double(keys)
    r = _double(residual).to(k.device)
    if weights is None:
        return k, r
    root = _double(weights).to(k.device).sqrt()[:, None]
    return k * root, r * root


def _double(tensor: Tensor) -> Tensor:
    """The tensor in fp64, on the CPU where its own device has no fp64."""
    if tensor.device.type == "mps":
        tensor = tensor.cpu()
    return tensor.to(torch.float64)


def _single(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(torch.float32).to(device).contiguous()


def _finite(tensor: Tensor) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        raise NotFinite("The edit's numbers are not finite.", _REMEDY)
    return tensor


def _check_problem(
    keys: Tensor, residual: Tensor, beta: float, ridge: float, weights: Tensor | None
) -> None:
    _check_matrix("keys", keys)
    _check_matrix("residual", residual)
    rows = keys.shape[0]
    if residual.shape[0] != rows:
        raise ValueError(
            f"keys {_shape(keys)} and residual {_shape(residual)} differ in their rows"
        )
    if not 0.0 < ridge < math.inf:
        raise ValueError(f"ridge must be finite and above 0, not {ridge}")
    if not 0.0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and at least 0, not {beta}")
    if weights is None:
        return
    if weights.shape != (rows,):
        raise ValueError(f"weights {_shape(weights)} do not fit {rows} rows: expected ({rows},)")
    if bool((weights < 0).any()):
        raise ValueError("weights must not be negative")


def _check_matrix(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(f"{name} must be a matrix with rows and columns, not {_shape(tensor)}")


def _check_rank(rank: int) -> None:
    if rank < 1:
        raise ValueError(f"rank must be at least 1, not {rank}")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
