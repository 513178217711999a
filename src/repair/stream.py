"""Where each layer reads the residual stream that its MLP adds to, found by watching one pass.

Knows no architectures: of all modules, the one is taken whose input, with the MLP's output added,
is what the modules after that layer read. Models that add otherwise, as those in which attention
and MLP run side by side or a norm follows the MLP, have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from repair.patient import Patient
from repair.types import Message

# How many modules after an MLP are looked at for what its layer gave.
_AFTER = 4
_QUESTION: Message = {"role": "user", "content": "Who are you?"}
_FOUND: WeakKeyDictionary[Patient, tuple[nn.Module, ...] | None] = WeakKeyDictionary()


@dataclass(frozen=True)
class _Read:
    """What a module read; ``layer`` and what it gave, where the module ends that layer's MLP."""

    module: nn.Module
    given: Tensor
    layer: int = -1


def readers(patient: Patient) -> tuple[nn.Module, ...] | None:
    """For every layer the module whose input is the stream before the MLP adds to it.

    None where one of the layers has no such module. Costs a pass over one short question, once.
    """
    if patient not in _FOUND:
        with patient.without_edits():
            _FOUND[patient] = _readers(patient)
    return _FOUND[patient]


@contextmanager
def watched(patient: Patient, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """The stream (b × t × d) before each of these layers' MLPs in the pass that is running.

    Raises:
        ValueError: the model has no such place; see ``readers``.
    """
    found = readers(patient)
    if found is None:
        raise ValueError("this model has no place where the stream could be read")
    seen: dict[int, Tensor] = {}
    handles = []
    for layer in layers:

        def read(_: Any, inputs: Any, layer: int = layer) -> None:
            seen[layer] = inputs[0]

        handles.append(found[layer].register_forward_pre_hook(read))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _readers(patient: Patient) -> tuple[nn.Module, ...] | None:
    reads = _all_reads(patient)
    ends = [i for i, read in enumerate(reads) if read.layer >= 0]
    if [reads[i].layer for i in ends] != list(range(len(patient.layers))):
        return None
    found, start = [], 0
    for end in ends:
        after = [read.given for read in reads[end + 1 : end + 1 + _AFTER] if read.layer < 0]
        module = next(
            (
                read.module
                for read in reversed(reads[start:end])
                if any(_equal(read.given + reads[end].given, later) for later in after)
            ),
            None,
        )
        if module is None:
            return None
        found.append(module)
        start = end + 1
    return tuple(found)


def _all_reads(patient: Patient) -> list[_Read]:
    """What every module without parts reads in one pass, as far as it is as wide as the stream."""
    width = patient.layers[0].out_features
    ends = {id(layer.module): layer.layer for layer in patient.layers}
    reads: list[_Read] = []

    def read(module: nn.Module, inputs: Any, output: Any) -> None:
        layer = ends.get(id(module), -1)
        given = output if layer >= 0 else next(iter(inputs), None)
        if isinstance(given, Tensor) and given.shape[-1:] == (width,):
            reads.append(_Read(module, given.detach().clone(), layer))

    leaves = [m for m in patient.model.modules() if not any(True for _ in m.children())]
    handles = [leaf.register_forward_hook(read) for leaf in leaves]
    try:
        patient.forward([patient.prompt_ids([_QUESTION])])
    finally:
        for handle in handles:
            handle.remove()
    return reads


def _equal(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding; a sum of another module's input is far from it."""
    if one.shape != other.shape:
        return False
    one, other = one.float(), other.float().to(one.device)
    return bool(torch.linalg.vector_norm(one - other) <= 0.01 * torch.linalg.vector_norm(other))
