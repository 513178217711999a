"""The edited matrices of one model: W₀ + Σ B A; knows no text, no files, no reasons.

A packed matrix cannot take a sum. There the edits run beside it, o = W₀ h + Σ B (A h).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from repair.architectures import MlpMap
from repair.errors import NotFinite
from repair.types import Edit, LowRankUpdate, Place, next_id

# Fields of a configuration that say who wrote it and not what the model computes.
_NOT_CONTENT = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")

# From so many updates of one matrix on, their sum is kept in fp32: adding one more then costs
# one product and not as many as there are edits. It takes two copies of the matrix.
_SUMMED = 8


class EditableWeights:
    """A model's MLP maps with edits on them.

    W₀ of a matrix is copied when its first edit comes. Weights are rebuilt from it and
    never added to or subtracted from, so any order of edits and undos ends in the same bits.
    A packed matrix is not touched at all: leaving the edits out gives the same bits again.
    """

    def __init__(self, maps: Mapping[Place, MlpMap]) -> None:
        self.maps = dict(maps)
        self._originals: dict[Place, Tensor] = {}
        self._beside: dict[Place, RemovableHandle] = {}
        # By matrix the last sums W₀ + Σ B A in fp32, and of which updates each is.
        self._sums: dict[Place, list[tuple[tuple[LowRankUpdate, ...], Tensor]]] = {}
        self._active: tuple[Edit, ...] = ()

    def original(self, place: Place) -> Tensor:
        """W₀ of one matrix (out × in), in the model's type; not to be written to.

        Raises:
            ModelNotEditable: it is packed.
        """
        known = self._originals.get(place)
        return self.maps[place].weight if known is None else known

    def digest(self, config: Mapping[str, Any]) -> str:
        """SHA-256 in hexadecimal over a model's configuration and W₀ of every MLP output."""
        kept = {name: value for name, value in config.items() if name not in _NOT_CONTENT}
        digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
        for output in self.maps.values():
            if output.part != "output":
                continue
            stored = output.parameter.data if output.packed else self.original(output.place)
            digest.update(stored.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def active(self) -> tuple[Edit, ...]:
        """The edits that the weights carry now, by id."""
        return self._active

    def apply(self, edits: Sequence[Edit]) -> None:
        """Set the weights to W₀ + Σ B A over exactly these edits, summed by id in fp32.

        Only matrices whose updates changed are touched. On any failure nothing has changed.

        Raises:
            NotFinite: a factor or a resulting weight is NaN or infinite.
            ValueError: an id twice, a layer that is not there, or factors of wrong shape.
        """
        self._set(tuple(sorted(edits, key=lambda edit: edit.id)))

    @contextmanager
    def trial(self, updates: Sequence[LowRankUpdate]) -> Iterator[None]:
        """The active edits and one tentative edit after them, for the length of a block.

        The state before is restored at the end and on an exception, unless the block
        called ``apply`` itself. Raises what ``apply`` raises.
        """
        before = self._active
        tentative = (*before, Edit(next_id(before), tuple(updates)))
        self._set(tentative)
        try:
            yield
        finally:
            if self._active is tentative:
                self._set(before)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """W₀ for the length of a block; the active edits are put back at its end."""
        before = self._active
        self._set(())
        try:
            yield
        finally:
            self._set(before)

    def _set(self, edits: tuple[Edit, ...]) -> None:
        if len({edit.id for edit in edits}) < len(edits):
            raise ValueError("the same edit id is given twice")
        known = {id(update) for edit in self._active for update in edit.updates}
        for edit in edits:
            for update in edit.updates:
                if id(update) not in known:
                    self._check(update)
        before, after = _by_place(self._active), _by_place(edits)
        done: list[Place] = []
        try:
            for place in sorted(before.keys() | after.keys()):
                old, new = before.get(place, ()), after.get(place, ())
                if len(old) != len(new) or any(a is not b for a, b in zip(old, new, strict=True)):
                    done.append(place)
                    self._rebuild(place, new)
        except BaseException:
            for place in done:
                self._rebuild(place, before.get(place, ()))
            raise
        self._active = edits

    def _check(self, update: LowRankUpdate) -> None:
        output = self.maps.get(update.place)
        if output is None:
            raise ValueError(f"there is no {update.part} of layer {update.layer} to be changed")
        d, m = output.out_features, output.in_features
        b, a = tuple(update.b.shape), tuple(update.a.shape)
        if len(b) != 2 or len(a) != 2 or b[0] != d or a[1] != m or b[1] != a[0]:
            raise ValueError(f"layer {update.layer} needs b ({d}, n) and a (n, {m}), not {b}, {a}")
        if not (torch.isfinite(update.b).all() and torch.isfinite(update.a).all()):
            raise NotFinite(f"The update of layer {update.layer} is not finite; nothing changed.")

    @torch.no_grad()
    def _rebuild(self, place: Place, updates: Sequence[LowRankUpdate]) -> None:
        """W = W₀ + Σ B A, in place, so that whatever shares the parameter sees it too."""
        output = self.maps[place]
        if output.packed:
            self._run_beside(output, updates)
            return
        output.hold()
        weight = output.weight
        original = self._originals.get(place)
        if original is None:
            original = self._originals[place] = weight.clone(memory_format=torch.preserve_format)
        if not updates:
            weight.copy_(original)
            return
        total = self._sum(place, original, tuple(updates))
        result = total.to(weight.dtype)
        # A sum is finite only when all its terms are; were it to overflow, they are looked at.
        if not torch.isfinite(result.sum()) and not torch.isfinite(result).all():
            raise NotFinite(f"The weights of layer {place[0]} would overflow; nothing changed.")
        weight.copy_(result)

    def _run_beside(self, output: MlpMap, updates: Sequence[LowRankUpdate]) -> None:
        """o + Σ B (A h) in fp32, cast once; without updates the map is what it was."""
        handle = self._beside.pop(output.place, None)
        if handle is not None:
            handle.remove()
        if not updates:
            return
        device = output.parameter.device
        a = torch.cat([update.a for update in updates]).to(device, torch.float32)
        b = torch.cat([update.b for update in updates], dim=1).to(device, torch.float32)

        def add(_module: Any, inputs: tuple[Tensor, ...], o: Tensor) -> Tensor:
            return (o.float() + inputs[0].float() @ a.T @ b.T).to(o.dtype)

        self._beside[output.place] = output.module.register_forward_hook(add)

    def _sum(self, place: Place, original: Tensor, updates: tuple[LowRankUpdate, ...]) -> Tensor:
        """W₀ + Σ B A, going on from a sum of the first of these updates where one is kept.

        The terms are added in the same order either way, so the bits are the same.
        """
        dtype = torch.promote_types(original.dtype, torch.float32)
        begun = [(part, kept) for part, kept in self._sums.get(place, []) if _begins(updates, part)]
        done, start = max(begun, key=lambda item: len(item[0]), default=((), original))
        total = start.to(dtype, copy=True)
        for update in updates[len(done) :]:
            a = self.maps[place].share(update.a)
            total.addmm_(update.b.to(total.device, dtype), a.to(total.device, dtype))
        if len(updates) >= _SUMMED:
            # One for what is in force and one for what is tried upon it.
            before = [(done, start)] if 0 < len(done) < len(updates) else []
            self._sums[place] = [(updates, total), *before]
        else:
            self._sums.pop(place, None)
        return total


def _begins(whole: tuple[LowRankUpdate, ...], part: tuple[LowRankUpdate, ...]) -> bool:
    return len(part) <= len(whole) and all(a is b for a, b in zip(part, whole, strict=False))


def _by_place(edits: Sequence[Edit]) -> dict[Place, tuple[LowRankUpdate, ...]]:
    """Each matrix's updates, in the order of the edits."""
    grouped: dict[Place, list[LowRankUpdate]] = {}
    for edit in edits:
        for update in edit.updates:
            grouped.setdefault(update.place, []).append(update)
    return {place: tuple(updates) for place, updates in grouped.items()}
