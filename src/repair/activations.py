"""One forward pass with hooks on the MLP outputs: read activations, or edit on the way.

Knows where a model's MLP outputs are and when they run; not why a row is edited, nor what the
edit is for. Letters as in ``repair.stamp``: at one layer o = W h, K the keys h, R = O* − O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repair.architectures import MlpMap
from repair.detectors import Units
from repair.patient import Patient
from repair.stamp import LowRank
from repair.stream import watched
from repair.types import LowRankUpdate, Part

# (layer, inputs x of the MLP (n × d) at the rows) → hidden units to be given new inputs, if any.
Detect = Callable[[int, Tensor], Units | None]
# (layer, keys (n × m), residual (n × d)) → ΔW = B A of that layer.
Solver = Callable[[int, Tensor, Tensor], LowRank]
# (layer, outputs (n × d) of the rows today) → the outputs wanted instead. Where a row's whole
# stream is looked at, its output is what the layer's MLP makes of the stream and not what it adds.
Target = Callable[[int, Tensor], Tensor]
# Sequences that pass through a model at once.
BATCH = 512


class _LastEditedLayer(Exception):  # noqa: N818 - a signal, not an error
    """Nothing after the last edited layer needs to be computed."""


@dataclass(frozen=True)
class Rows:
    """Token positions of a batch of sequences.

    ``ids`` are the sequences; ``sequence`` and ``position`` (both (n,), int64) name one
    token each.
    """

    ids: tuple[tuple[int, ...], ...]
    sequence: Tensor
    position: Tensor

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]) -> Rows:
        """Rows from (sequence, position) pairs.

        Raises:
            ValueError: no rows, or a place outside the sequences.
        """
        if not places:
            raise ValueError("an edit needs at least one row")
        for sequence, position in places:
            if not (0 <= sequence < len(ids) and 0 <= position < len(ids[sequence])):
                raise ValueError(f"there is no token {position} of sequence {sequence}")
        index = torch.tensor(places, dtype=torch.long)
        return cls(tuple(tuple(row) for row in ids), index[:, 0], index[:, 1])

    @property
    def tokens(self) -> int:
        """How many tokens the sequences have without padding."""
        return sum(len(row) for row in self.ids)

    def parts(self, count: int) -> list[tuple[Rows, Tensor]]:
        """The rows of at most ``count`` sequences each, of similar length, with their indices."""
        order = sorted(range(len(self.ids)), key=lambda i: len(self.ids[i]))
        found = []
        for start in range(0, len(order), count):
            group = order[start : start + count]
            place = torch.full((len(self.ids),), -1)
            place[torch.tensor(group)] = torch.arange(len(group))
            (index,) = torch.where(place[self.sequence] >= 0)
            if len(index):
                ids = tuple(self.ids[i] for i in group)
                rows = Rows(ids, place[self.sequence[index]], self.position[index])
                found.append((rows, index))
        return found

    def take(self, activations: Tensor) -> Tensor:
        """(b × t × w) at the rows, as (n × w) in fp32."""
        index = self.sequence.to(activations.device), self.position.to(activations.device)
        return activations[index].float()


@contextmanager
def _hooks(
    patient: Patient,
    layers: Sequence[int],
    hook: Callable[[int, Tensor, Tensor], Tensor | None],
    part: Part = "output",
) -> Iterator[None]:
    handles = []
    for layer in layers:
        matrix = patient.maps[layer, part]

        def call(
            _: Any, inputs: Any, output: Tensor, layer: int = layer, matrix: MlpMap = matrix
        ) -> Tensor | None:
            return hook(layer, matrix.whole(inputs[0]), output)

        handles.append(matrix.module.register_forward_hook(call))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def capture(
    patient: Patient,
    rows: Rows,
    layers: Sequence[int],
    whole: Tensor | None = None,
    part: Part = "output",
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Keys (n × m) and outputs (n × d) of every layer at the rows, fp32.

    In one pass, or in several over at most ``BATCH`` sequences of similar length each.
    ``whole`` (n,) bool names the rows of which the whole stream is looked at, if any. With
    another ``part`` of the MLP it is what that map reads and gives.
    """
    if len(rows.ids) <= BATCH:
        return _captured(patient, rows, layers, whole, part)
    parts = rows.parts(BATCH)
    found = [
        _captured(patient, some, layers, whole if whole is None else whole[index], part)
        for some, index in parts
    ]
    back = torch.argsort(torch.cat([index for _, index in parts]))
    keys, outputs = (
        {layer: torch.cat([part[i][layer] for part in found])[back] for layer in layers}
        for i in (0, 1)
    )
    return keys, outputs


def _captured(
    patient: Patient, rows: Rows, layers: Sequence[int], whole: Tensor | None, part: Part
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    keys: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}

    with _stream(patient, rows, layers, whole) as before:

        def hook(layer: int, h: Tensor, o: Tensor) -> None:
            # Cloned, because some architectures add to the output in place afterwards.
            keys[layer], outputs[layer] = rows.take(h).clone(), rows.take(o) + before(layer)
            if layer == max(layers):
                raise _LastEditedLayer

        _run(patient, rows, layers, hook, part)
    return keys, outputs


@contextmanager
def _stream(
    patient: Patient, rows: Rows, layers: Sequence[int], whole: Tensor | None
) -> Iterator[Callable[[int], Tensor]]:
    """Of a layer: what the stream holds at the rows (n × d) before its MLP adds; 0 if not whole."""
    if whole is None or not bool(whole.any()):
        yield lambda _: torch.zeros(())
        return
    with watched(patient, layers) as seen:
        yield lambda layer: rows.take(seen[layer]) * whole[:, None].to(seen[layer].device)


def edit_in_one_pass(
    patient: Patient,
    rows: Rows,
    layers: Sequence[int],
    target: Target,
    solve: Solver,
    whole: Tensor | None = None,
    detect: Detect | None = None,
) -> tuple[LowRankUpdate, ...]:
    """Solve every layer during one forward pass; nothing of the patient is changed.

    At each layer the wanted outputs are asked for, the change is solved, and the pass goes on
    with the edited output at every token, so that a later layer sees what the earlier ones
    changed. L layers cost one forward pass, not L. More than ``BATCH`` sequences would take too
    much memory at once: there the same is done layer after layer, in several passes.

    Args:
        whole: (n,) bool, the rows whose targets are about the whole stream; None for no row.
        detect: chooses hidden units of a layer, which get new inputs before it is solved;
            asked where the model's MLPs are gated pairs, and nowhere else.

    Raises:
        NotFinite: a solve did not come out finite.
        ValueError: the stream is asked for where the model has no place to read it.
    """
    updates: list[LowRankUpdate] = []
    if len(rows.ids) > BATCH:
        for layer in layers:
            if detect is not None and (layer, "gate") in patient.maps:
                with patient.trial(updates):
                    x = capture(patient, rows, [layer], part="gate")[0][layer]
                updates += _fed(patient, layer, detect(layer, x))
            with patient.trial(updates):
                keys, outputs = (found[layer] for found in capture(patient, rows, [layer], whole))
            change = solve(layer, keys, target(layer, outputs) - outputs)
            if change.rank:
                updates.append(LowRankUpdate(layer, change.b.cpu(), change.a.cpu()))
        return tuple(updates)

    with (
        _stream(patient, rows, layers, whole) as before,
        _detecting(patient, rows, layers, detect, updates),
    ):

        def hook(layer: int, h: Tensor, o: Tensor) -> Tensor:
            outputs = rows.take(o) + before(layer)
            change = solve(layer, rows.take(h), target(layer, outputs) - outputs)
            if change.rank:
                updates.append(LowRankUpdate(layer, change.b.cpu(), change.a.cpu()))
            if layer == max(layers):
                raise _LastEditedLayer
            return o + (h.float() @ change.a.T @ change.b.T).to(o.dtype)

        _run(patient, rows, layers, hook)
    return tuple(updates)


@contextmanager
def _detecting(
    patient: Patient,
    rows: Rows,
    layers: Sequence[int],
    detect: Detect | None,
    updates: list[LowRankUpdate],
) -> Iterator[None]:
    """Units chosen when a layer's MLP begins, active in the pass from there on, and noted."""
    known: dict[int, Units | None] = {}

    def units(layer: int, x: Tensor) -> Units | None:
        if layer not in known:
            known[layer] = detect(layer, rows.take(x)) if detect else None
            updates.extend(_fed(patient, layer, known[layer]))
        return known[layer]

    def gate(layer: int, x: Tensor, o: Tensor) -> Tensor | None:
        found = units(layer, x)
        return None if found is None else _replaced(x, o, found.index, found.gate)

    def up(layer: int, x: Tensor, o: Tensor) -> Tensor | None:
        found = units(layer, x)
        return None if found is None else _replaced(x, o, found.index, found.up)

    asked = [n for n in layers if detect is not None and (n, "gate") in patient.maps]
    with _hooks(patient, asked, gate, "gate"), _hooks(patient, asked, up, "up"):
        yield


def _replaced(x: Tensor, o: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """Outputs (… × m) in which some units are made of x by other rows of the map (k × d)."""
    changed = o.clone()
    changed[..., index.to(o.device)] = (x.float() @ rows.to(x.device).T).to(o.dtype)
    return changed


def _fed(patient: Patient, layer: int, units: Units | None) -> list[LowRankUpdate]:
    """The change of the two maps that gives these units their new inputs."""
    if units is None:
        return []
    found = []
    pairs: tuple[tuple[Part, Tensor], ...] = (("gate", units.gate), ("up", units.up))
    for part, rows in pairs:
        weight = patient.maps[layer, part].weight
        b = torch.zeros(len(weight), len(units.index))
        b[units.index, torch.arange(len(units.index))] = 1.0
        now = weight[units.index.to(weight.device)].float().cpu()
        found.append(LowRankUpdate(layer, b, rows - now, part=part))
    return found


def _run(
    patient: Patient,
    rows: Rows,
    layers: Sequence[int],
    hook: Callable[[int, Tensor, Tensor], Tensor | None],
    part: Part = "output",
) -> None:
    if not layers:
        raise ValueError("at least one layer must be named")
    with _hooks(patient, layers, hook, part):
        try:
            patient.forward(rows.ids)
        except _LastEditedLayer:
            return
    raise RuntimeError(f"layers {sorted(layers)} never ran")


def keys_of_text(
    patient: Patient,
    texts: Sequence[tuple[Sequence[int], range]],
    layers: Sequence[int],
    *,
    batch: int = 32,
    part: Part = "output",
) -> Iterator[Mapping[int, Tensor]]:
    """Keys (N × m) of the named tokens of many sequences, a batch at a time.

    With another ``part`` of the MLP it is what that map reads.
    """
    ordered = sorted(texts, key=lambda text: len(text[0]))
    for start in range(0, len(ordered), batch):
        group = ordered[start : start + batch]
        places = [(i, j) for i, (_, named) in enumerate(group) for j in named]
        if places:
            rows = Rows.of([ids for ids, _ in group], places)
            yield capture(patient, rows, layers, part=part)[0]
