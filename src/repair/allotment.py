"""Which hidden units an edit may take, and which of its rows each of them is to see.

Knows the active edits, the ledger's and how much the model uses a unit. How a unit is made to see
rows is in ``detectors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from repair.detectors import Units, detect, least_used, steady, threshold, used
from repair.ledger import Ledger
from repair.patient import Patient
from repair.preparation import Preparation
from repair.rows import EditRows

# While more than this share of the units that edits may take would be left, an edit takes some in
# all layers but the last: what one of them misses another sees. After that each fact gets one unit
# where its answer begins and one within the answer, in the layers with most units left; a fact that
# is still given away then gets both in all of them.
#
# The last layer gives its units when the others have none left. There the units' constant direction
# is least constant: it is -0.7 at some tokens of stories, where all of them opened.
PLENTY = 0.75


@dataclass(frozen=True)
class Share:
    """What one layer gives an edit: units, the least used first, and groups of rows ((n,) bool
    each) that want one, with whether they lie within an answer."""

    free: list[int]
    groups: list[tuple[Tensor, bool]]


class Allotment:
    """Deals out the hidden units of one patient.

    Args:
        ledger: units of the edits in it stay theirs, for an undone one may come back, and other
            people's act beside everyone's.
    """

    def __init__(
        self, patient: Patient, preparation: Preparation, ledger: Ledger | None = None
    ) -> None:
        self.patient, self.preparation, self.ledger = patient, preparation, ledger
        # Units of the ledger's edits, as far as it was read.
        self._taken, self._read = set[tuple[int, int]](), 0
        self._least_used: dict[int, list[int]] = {}
        self._is_steady: dict[int, bool] = {}

    def room(self, layers: Sequence[int], facts: int) -> bool:
        """Whether so many facts can have units of their own in these layers.

        False, too, where the model's MLPs are no gated pairs, or no statistics of their inputs
        are known or these are not steady.
        """
        if not all((n, "gate") in self.patient.maps and self._steady(n) for n in layers):
            return False
        return sum(map(len, self._free(layers).values())) >= 2 * facts

    def plenty(self, layers: Sequence[int], units: int = 0) -> bool:
        """Whether most units of these layers but the last are left when so many more are taken."""
        hosts = layers[:-1] or layers
        left = min(len(free) for n, free in self._free(layers).items() if n in hosts)
        return left - units >= PLENTY * min(len(self._least_used[n]) for n in hosts)

    def deal(self, layers: Sequence[int], rows: EditRows) -> dict[int, Share]:
        """The units that each layer gives an edit, and the groups of rows that want one each."""
        free = self._free(layers)
        hosts = layers[:-1] or layers
        wanted: dict[int, list[tuple[Tensor, bool]]] = {n: [] for n in layers}
        groups = [
            (group, within, bool((pair[0] & rows.closely).any()))
            for pair in rows.groups
            for group, within in zip(pair, (False, True), strict=True)
            if bool(group.any())
        ]
        left = {n: len(free[n]) for n in layers}
        plenty = self.plenty(layers, len(groups))
        for group, within, closely in groups:
            host = max(hosts, key=left.__getitem__)
            every = (plenty or closely) and left[host] > 0
            for n in hosts if every else [host if left[host] else layers[-1]]:
                wanted[n].append((group, within))
                left[n] -= 1
        return {n: Share(free[n], own) for n, own in wanted.items()}

    def units(self, share: Share, layer: int, x: Tensor, kept: Tensor) -> Units | None:
        """A layer's units for what its MLP reads at the rows, x (n × d); ``kept`` (n,) bool."""
        inputs, statistics = self.preparation.inputs[layer], self.preparation.statistics[layer]
        units = len(self._least_used[layer]) - len(share.free) + len(share.groups)
        groups = [(rows, threshold(units, within=within)) for rows, within in share.groups]
        return detect(x, groups, kept, inputs, share.free, statistics)

    def _steady(self, layer: int) -> bool:
        if layer not in self._is_steady:
            inputs = self.preparation.inputs.get(layer)
            self._is_steady[layer] = inputs is not None and steady(inputs)
        return self._is_steady[layer]

    def _free(self, layers: Sequence[int]) -> dict[int, list[int]]:
        for edit in self.ledger.later(self._read) if self.ledger is not None else ():
            self._read = max(self._read, edit.id)
            self._taken |= used([edit])
        taken = self._taken | used(self.patient.active)
        for n in layers:
            if n not in self._least_used:
                statistics = self.preparation.statistics[n]
                self._least_used[n] = least_used(self.patient, n, statistics)
        return {n: [j for j in self._least_used[n] if (n, j) not in taken] for n in layers}
