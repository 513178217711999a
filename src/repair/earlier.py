"""What earlier edits fixed stays fixed: the statistics of a model with edits on it.

Knows the kept keys of a model and those of its active edits; neither prompts nor operations.
Each edit's rows, kept with their weights, enter the second moment that the next edit has to
leave alone. For fixed keys that is the joint solution over all rows (recursive least
squares), at the cost of one edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from repair.stamp import Statistics
from repair.types import Edit

# Columns of C at most: room for the model's own and for those of some hundred edits.
RANK = 768
# How many edits are taken in with one decomposition.
TOGETHER = 32


class Protection:
    """Statistics that follow the active edits of one patient.

    Args:
        base: of the untouched model, by layer.
        beta: the weight that C gets in a solve; rows are to weigh what they weighed.
    """

    def __init__(self, base: Mapping[int, Statistics], beta: float) -> None:
        self._base = dict(base)
        self._beta = beta
        self._taken: tuple[int, ...] = ()
        self._now = dict(base)

    def statistics(self, active: Sequence[Edit]) -> Mapping[int, Statistics]:
        """By layer, with every edit of ``active`` protected; the last call's work is reused."""
        ids = tuple(edit.id for edit in active)
        if ids[: len(self._taken)] != self._taken:
            self._taken, self._now = (), dict(self._base)
        fresh = active[len(self._taken) :]
        for start in range(0, len(fresh), TOGETHER):
            self._take(fresh[start : start + TOGETHER])
        self._taken = ids
        return self._now

    def _take(self, edits: Sequence[Edit]) -> None:
        for layer, statistics in self._now.items():
            rows = [
                update.keys
                for edit in edits
                for update in edit.updates
                if update.layer == layer and update.keys is not None
            ]
            if rows and self._beta > 0:
                scaled = torch.cat(rows).to(statistics.u) / self._beta**0.5
                width = statistics.u.shape[0]
                self._now[layer] = statistics.plus(scaled, min(RANK, width))
