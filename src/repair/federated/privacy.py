"""Noise with a stated budget: the Gaussian mechanism on clipped statistics.

Knows matrices and accounting; nothing of models. What is protected is one request of a node:
whether it is there at all changes what the node sends by no more than ε and δ say, over a whole
edit. Every request's rows are clipped to √D K of Frobenius norm ``keys`` and √D R of ``outputs``
at most, so that with or without it Kᵀ D K differs by keys² and Kᵀ D R by keys · outputs. In these
units both together differ by √2 at most. One release with noise of σ units is (1/σ²)-zCDP, k
releases add up to ρ = k/σ², and ε = ρ + 2 √(ρ ln 1/δ) (Bun and Steinke 2016, proposition 1.3).
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repair.errors import OperationRefused, UsageError
from repair.federated.statistics import Moments


@dataclass(frozen=True)
class Privacy:
    """A budget for one edit: ``epsilon`` and ``delta`` of every node, over ``releases``."""

    epsilon: float
    delta: float
    releases: int

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < math.inf and 0 < self.delta < 1 and self.releases >= 1):
            raise UsageError(
                f"There is no privacy budget of epsilon {self.epsilon} and delta {self.delta}.",
                "Epsilon is above 0, and delta between 0 and 1.",
            )

    @property
    def rho(self) -> float:
        """The whole budget in zCDP."""
        log = math.log(1 / self.delta)
        return (math.sqrt(log + self.epsilon) - math.sqrt(log)) ** 2

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise, in units of the clipping bounds' products."""
        return math.sqrt(self.releases / self.rho)

    def spent(self, releases: int) -> float:
        """The ε of so many releases, at the same δ."""
        rho = releases / self.sigma**2
        return rho + 2 * math.sqrt(rho * math.log(1 / self.delta))

    def check(self, released: int) -> None:
        """One more release after ``released`` of them.

        Raises:
            OperationRefused: it is not in the budget.
        """
        if released >= self.releases:
            raise OperationRefused(
                f"The privacy budget of {self.epsilon:g} is spent.", "Begin a new edit."
            )


def clipped(tensor: Tensor, weights: Tensor, bound: float) -> Tensor:
    """``tensor`` (n × c) scaled so that √D ``tensor`` has Frobenius norm ``bound`` at most."""
    norm = float((weights.double().sqrt()[:, None] * tensor.double()).norm())
    return tensor if norm <= bound else tensor * (bound / norm)


def noised(total: Moments, privacy: Privacy, *, keys: float, outputs: float) -> Moments:
    """The moments with Gaussian noise, the second moment's symmetric; drawn from the system."""
    generator = np.random.default_rng(secrets.randbits(256))

    def draw(shape: torch.Size, unit: float) -> Tensor:
        values = generator.standard_normal(tuple(shape))
        return torch.from_numpy(values) * (privacy.sigma * unit)

    upper = draw(total.second.shape, keys * keys).triu()
    noise = upper + upper.triu(1).T
    return Moments(total.second + noise, total.cross + draw(total.cross.shape, keys * outputs))
