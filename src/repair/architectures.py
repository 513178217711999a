"""Where a decoder's MLP outputs are, found by structure; knows no model names, edits or text.

A layer's MLP is the module inside the block that maps d to m (one map, a gated pair, or
both fused into one of width 2m), owns an activation, and ends in a linear map m to d.
That last map is what an edit changes; a gated pair before it (``gates``) may take part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from transformers.pytorch_utils import Conv1D

from repair.errors import ModelNotEditable
from repair.quantised import METHOD, is_packed
from repair.types import Part, Place

EDITABLE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_NOT_ACTIVATIONS = (nn.Dropout, nn.Identity, nn.ModuleList, nn.ModuleDict)
_FULL_PRECISION = "Load the checkpoint's float32, bfloat16 or float16 version instead."
_DENSE = "Use a dense model: every layer needs one MLP of plain linear maps."


@dataclass(frozen=True)
class MlpMap:
    """One linear map of a decoder layer's MLP: its last, o = W h, or one of the two before it.

    Of the last, ``in_features`` is m, ``out_features`` d. ``transposed`` says that the module
    stores its weight as m × d (GPT-2's Conv1D) and not as d × m. ``packed`` says that W is
    quantised and cannot be read or written in place: an edit then stays beside it.
    """

    layer: int
    name: str
    module: nn.Module
    in_features: int
    out_features: int
    transposed: bool
    packed: bool = False
    part: Part = "output"

    @property
    def place(self) -> Place:
        """The layer, and which map of its MLP."""
        return self.layer, self.part

    @property
    def parameter(self) -> nn.Parameter:
        """The weight as the module stores it, d × m or, where ``transposed``, m × d.

        Where accelerate keeps it in main memory or on a disk until it is used, it is that;
        what was read from a disk can be written to only after ``hold``. Of a weight that is
        split over processes (``tp_plan``) it is this process's columns of W.
        """
        weight = self.module.weight
        if not isinstance(weight, nn.Parameter):
            raise ModelNotEditable(f"The weight of {self.name} is not a parameter.", _DENSE)
        if isinstance(weight, DTensor):
            return nn.Parameter(weight.to_local(), requires_grad=False)
        if not weight.is_meta:
            return weight
        elsewhere = _kept_elsewhere(self.module)
        if elsewhere is None:
            raise ModelNotEditable(f"The weight of {self.name} is on no device.", _FULL_PRECISION)
        return nn.Parameter(elsewhere["weight"], requires_grad=False)

    def whole(self, keys: Tensor) -> Tensor:
        """Keys (… × m) at this layer, gathered where processes hold a part of their width each."""
        weight = self.module.weight
        if not isinstance(weight, DTensor) or keys.shape[-1] == self.in_features:
            return keys
        group = weight.device_mesh.get_group()
        parts = [torch.empty_like(keys) for _ in range(weight.device_mesh.size())]
        torch.distributed.all_gather(parts, keys.contiguous(), group)
        return torch.cat(parts, -1)

    def share(self, a: Tensor) -> Tensor:
        """The columns of A (n × m) that this process's part of W has; all of them otherwise."""
        weight = self.module.weight
        if not isinstance(weight, DTensor):
            return a
        return a.chunk(weight.device_mesh.size(), 1)[weight.device_mesh.get_local_rank()]

    def hold(self) -> None:
        """Keep in main memory a weight that lies on a disk, so that it can be written to.

        The file is never written to; the memory's copy goes before it from then on.
        """
        elsewhere = _kept_elsewhere(self.module) if self.module.weight.is_meta else None
        held = getattr(getattr(elsewhere, "dataset", None), "state_dict", None)
        if elsewhere is not None and held is not None:
            held.setdefault(f"{elsewhere.prefix}weight", elsewhere["weight"].clone())

    @property
    def weight(self) -> Tensor:
        """A view of the weight as W (d × m) that shares its memory.

        Raises:
            ModelNotEditable: the weight is packed.
        """
        if self.packed:
            raise ModelNotEditable(f"The weight of {self.name} is quantised.", _FULL_PRECISION)
        data = self.parameter.data
        return data.T if self.transposed else data


@dataclass(frozen=True)
class _Linear:
    """A linear map by its widths, whichever way its module stores them."""

    name: str
    module: nn.Module
    n_in: int
    n_out: int
    transposed: bool


def find_mlp_outputs(model: nn.Module) -> tuple[MlpMap, ...]:
    """The MLP output map of every decoder layer of a dense causal language model, in order.

    Raises:
        ModelNotEditable: the weights are quantised by another package than bitsandbytes, a
            layer holds experts, or a layer has no MLP of the expected shape.
    """
    refuse_quantised(getattr(model, "config", None))
    prefix, blocks = _decoder_blocks(model)
    found: list[MlpMap] = []
    for index, block in enumerate(blocks):
        name = f"{prefix}.{index}"
        _refuse_experts(name, block)
        linear = _mlp_output(name, block)
        _refuse_other_splits(linear)
        found.append(
            MlpMap(
                index,
                linear.name,
                linear.module,
                linear.n_in,
                linear.n_out,
                linear.transposed,
                is_packed(linear.module),
            )
        )
    for output in found:
        if not output.packed and output.module.weight.dtype not in EDITABLE_DTYPES:
            raise ModelNotEditable(
                f"The weight of {output.name} is stored as {output.module.weight.dtype}.",
                _FULL_PRECISION,
            )
    if len({id(output.module.weight) for output in found}) < len(found):
        raise ModelNotEditable("Several decoder layers share one MLP weight.", _DENSE)
    return tuple(found)


def _refuse_other_splits(linear: _Linear) -> None:
    """Of weights split over processes only W's columns may be, evenly, as ``rowwise`` plans do."""
    weight = linear.module.weight
    if not isinstance(weight, DTensor):
        return
    wanted = (Shard(0 if linear.transposed else 1),)
    if weight.placements != wanted or linear.n_in % weight.device_mesh.size():
        raise ModelNotEditable(
            f"The weight of {linear.name} is split over processes as {weight.placements}.",
            "Split the MLP's last map by its inputs (rowwise), evenly, over one group.",
        )


def _kept_elsewhere(module: nn.Module) -> Any:
    """Where accelerate keeps a module's weights while it is not in use, by their names."""
    hook: Any = getattr(module, "_hf_hook", None)
    for part in (hook, *getattr(hook, "hooks", ())):
        found = getattr(part, "weights_map", None)
        if found is not None:
            return found
    return None


def refuse_quantised(config: object) -> None:
    """Refuse a model whose weights are quantised, unless by bitsandbytes.

    Raises:
        ModelNotEditable: ``config`` carries another quantisation.
    """
    quantisation = getattr(config, "quantization_config", None)
    if not quantisation:
        return
    if isinstance(quantisation, dict):
        method = quantisation.get("quant_method", "unknown")
    else:
        method = getattr(quantisation, "quant_method", "unknown")
    method = getattr(method, "value", method)
    if method == METHOD:
        return
    raise ModelNotEditable(
        f"The model's weights are already quantised ({method}).",
        _FULL_PRECISION,
    )


def _decoder_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of layers that lies beside the token embedding, or nearest above it.

    Starting at the embedding keeps the vision tower of a multimodal model out.
    """
    path = _embedding_path(model)
    while path:
        path = path.rpartition(".")[0]
        trunk = model.get_submodule(path)
        lists = [
            (f"{path}.{name}" if path else name, child)
            for name, child in trunk.named_children()
            if isinstance(child, nn.ModuleList) and len(child) > 0
        ]
        if lists:
            return max(lists, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    raise ModelNotEditable(
        f"No list of decoder layers was found in {type(model).__name__}.",
        "Use a causal language model of the decoder-only kind.",
    )


def _embedding_path(model: nn.Module) -> str:
    getter: Any = getattr(model, "get_input_embeddings", None)
    try:
        embedding = getter() if getter is not None else None
    except NotImplementedError:
        embedding = None
    for name, module in model.named_modules():
        if module is embedding:
            return str(name)
    return ""


def _refuse_experts(name: str, block: nn.Module) -> None:
    for child_name, child in block.named_modules():
        stacked = not isinstance(child, nn.modules.conv._ConvNd) and any(
            parameter.dim() == 3 for parameter in child.parameters(recurse=False)
        )
        listed = isinstance(child, nn.ModuleList) and (
            sum(bool(_candidates("", item)) for item in child) > 1
        )
        if stacked or listed:
            raise ModelNotEditable(
                f"{name}.{child_name} is a mixture of experts, which has no single MLP to edit.",
                "Use a dense model.",
            )


def _mlp_output(name: str, block: nn.Module) -> _Linear:
    """The block's MLP output; where several maps fit, the widest is the MLP."""
    candidates = _candidates(name, block)
    if not candidates:
        packed = any(not tensor.is_floating_point() for tensor in block.parameters())
        packed = packed or any(hasattr(module, "qweight") for module in block.modules())
        kinds = sorted({type(module).__name__ for module in block.modules()})
        raise ModelNotEditable(
            f"{name} holds {'quantised weights' if packed else 'no MLP that ends in a linear map'}"
            f" (found: {', '.join(kinds)}).",
            _FULL_PRECISION if packed else _DENSE,
        )
    widest = max(linear.n_in for linear in candidates)
    fitting = [linear for linear in candidates if linear.n_in == widest]
    if len(fitting) > 1:
        names = ", ".join(linear.name for linear in fitting)
        raise ModelNotEditable(f"{name} has more than one MLP output ({names}).", _DENSE)
    return fitting[0]


def _candidates(name: str, block: nn.Module) -> list[_Linear]:
    """Output maps of MLP shape; those beside an activation, where there are any.

    Shape alone also fits a fused attention whose keys and values together are as wide as
    its queries; attention owns no activation.
    """
    with_activation: list[_Linear] = []
    without: list[_Linear] = []
    for child_name, child in block.named_modules():
        full_name = ".".join(part for part in (name, child_name) if part)
        output = _last_linear(full_name, child)
        if output is not None:
            (with_activation if _owns_activation(child) else without).append(output)
    return with_activation or without


def _last_linear(name: str, owner: nn.Module) -> _Linear | None:
    linears = list(_own_linears(name, owner))
    for output in reversed(linears):
        d, m = output.n_out, output.n_in
        rest = [linear for linear in linears if linear is not output]
        if any(linear.n_in != d for linear in rest):
            continue
        if [linear.n_out for linear in rest] in ([m], [m, m], [2 * m]):
            return output
    return None


def _own_linears(name: str, owner: nn.Module) -> Iterator[_Linear]:
    for child_name, child in owner.named_children():
        full_name = f"{name}.{child_name}"
        if isinstance(child, nn.Linear):
            yield _Linear(full_name, child, child.in_features, child.out_features, False)
        elif isinstance(child, Conv1D):
            n_in, n_out = child.weight.shape
            yield _Linear(full_name, child, n_in, n_out, True)


def _owns_activation(owner: nn.Module) -> bool:
    return any(
        not isinstance(child, _NOT_ACTIVATIONS)
        and next(child.parameters(), None) is None
        and next(child.buffers(), None) is None
        for child in owner.children()
    )
