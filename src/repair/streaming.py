"""The second moment of keys that come in batches, as U, s and rest; never an m × m matrix.

Knows matrices only. One pass, O(m ℓ) memory for ℓ = rank + oversampling columns, by the
randomised Nyström approximation: with a fixed random Ω (m × ℓ) and Y = C Ω summed over the
batches, C ≈ Y (Ωᵀ Y)⁻¹ Yᵀ. Source: Tropp, Yurtsever, Udell and Cevher 2017, "Fixed-Rank
Approximation of a Positive-Semidefinite Matrix from Streaming Data" (arXiv 1706.05736),
algorithm 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repair.errors import NotFinite
from repair.stamp import Statistics

# Columns beyond the rank: the more, the nearer the best approximation of that rank.
OVERSAMPLING = 128


class StreamedMoment:
    """C = E[h hᵀ] of keys (N × m) that are shown batch by batch.

    Args:
        width: m.
        rank: r, the columns that ``statistics`` gives at most.
        seed: of Ω; equal seeds and batches give equal results.
    """

    def __init__(self, width: int, rank: int, *, seed: int = 0) -> None:
        self.width = width
        self.rank = min(rank, width)
        self.count = 0
        self._trace = 0.0
        columns = min(width, self.rank + OVERSAMPLING)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(width, columns, generator=generator, dtype=torch.float64)
        # Orthonormal columns keep Ωᵀ Y as well conditioned as C allows.
        self._omega, _ = torch.linalg.qr(drawn)
        self._total: Tensor | None = None

    def add(self, keys: Tensor) -> None:
        """Take in keys (n × m), any floating type, where they lie.

        Raises:
            ValueError: keys of another width.
        """
        if keys.ndim != 2 or keys.shape[1] != self.width:
            raise ValueError(f"keys {tuple(keys.shape)} do not have the width {self.width}")
        rows = (keys.cpu() if keys.device.type == "mps" else keys).double()
        self._omega = self._omega.to(rows.device)
        part = rows.T @ (rows @ self._omega)
        self._total = part if self._total is None else self._total.to(rows.device).add_(part)
        self._trace += float(rows.square().sum())
        self.count += len(rows)

    def statistics(self) -> Statistics:
        """U (m × r), s (r,) in fp32 and rest, on the keys' device.

        Raises:
            ValueError: no keys were shown.
            NotFinite: the keys held NaN or infinity.
        """
        if self._total is None:
            raise ValueError("a second moment needs at least one key")
        y = self._total / self.count
        norm = float(torch.linalg.norm(y))
        if not norm < float("inf"):
            raise NotFinite("The model's activations are not finite.", "Load it in float32.")
        # A shift of the size of the rounding makes the core positive definite; it is taken
        # off the eigenvalues again.
        shift = max(norm, 1e-30) * 1e-10
        y = y + shift * self._omega
        core = self._omega.T @ y
        values, vectors = torch.linalg.eigh((core + core.T) / 2)
        alive = values > 0
        half = y @ (vectors[:, alive] / values[alive].sqrt())
        # The singular values of ``half`` squared are the eigenvalues of C.
        squares, turned = torch.linalg.eigh(half.T @ half)
        squares, turned = squares.flip(0)[: self.rank], turned.flip(1)[:, : self.rank]
        kept = squares > max(float(squares[0]) * 1e-10, 2 * shift)
        u, _ = torch.linalg.qr(half @ turned[:, kept])
        s = squares[kept] - shift
        rest = max(0.0, self._trace / self.count - float(s.sum()))
        return Statistics(
            u.float().contiguous(), s.float().contiguous(), rest / max(1, self.width - len(s))
        )
