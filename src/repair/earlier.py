"""What earlier edits fixed stays fixed: the statistics of a model with edits on it.

Knows the kept keys of a model and those of its active edits; neither prompts nor operations.
Each edit's rows, kept with their weights, enter the second moment that the next edit has to
leave alone. For fixed keys that is the joint solution over all rows (recursive least
squares), at the cost of one edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repair.stamp import Statistics
from repair.types import Edit

# Columns of C at most; narrower keys than that are taken in exactly.
RANK = 2048
# Rows that wait before they are taken into C: a decomposition costs as much as several edits.
WAITING = 384


@dataclass(frozen=True)
class Kept:
    """What one layer has to leave alone: ``statistics``, and ``rows`` F (f × m) beside them."""

    statistics: Statistics
    rows: Tensor


class Protection:
    """Statistics that follow the active edits of one patient.

    Args:
        base: of the untouched model, by layer.
        beta: the weight that C gets in a solve; rows are to weigh what they weighed.
    """

    def __init__(self, base: Mapping[int, Statistics], beta: float) -> None:
        self._base = dict(base)
        self._beta = beta
        self._forget()

    def _forget(self) -> None:
        self._taken: tuple[int, ...] = ()
        self._now = {
            layer: Kept(statistics, statistics.u.new_zeros(0, statistics.u.shape[0]))
            for layer, statistics in self._base.items()
        }

    def kept(self, active: Sequence[Edit]) -> Mapping[int, Kept]:
        """By layer, with every edit of ``active`` protected; the last call's work is reused."""
        ids = tuple(edit.id for edit in active)
        if ids[: len(self._taken)] != self._taken:
            self._forget()
        fresh = active[len(self._taken) :]
        for layer, before in self._now.items():
            rows = [before.rows]
            for edit in fresh:
                rows += [u.keys for u in edit.updates if u.layer == layer and u.keys is not None]
            if len(rows) > 1:
                self._now[layer] = self._gathered(
                    before.statistics, torch.cat([r.to(before.rows) for r in rows])
                )
        self._taken = ids
        return self._now

    def _gathered(self, statistics: Statistics, rows: Tensor) -> Kept:
        if len(rows) <= WAITING or self._beta == 0:
            return Kept(statistics, rows)
        grown = statistics.plus(rows / self._beta**0.5, min(RANK, rows.shape[1]))
        return Kept(grown, rows[:0])
