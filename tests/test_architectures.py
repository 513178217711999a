"""The MLP outputs of every supported architecture, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from repair.architectures import find_mlp_outputs
from repair.errors import ModelNotEditable
from tests.conftest import DENSE, HIDDEN, INNER

if TYPE_CHECKING:
    from tests.conftest import MakeTiny

LAST_MAPS = {"phi": "fc2", "gpt2": "c_proj", "gpt_neox": "dense_4h_to_h", "falcon": "dense_4h_to_h"}


@pytest.mark.parametrize("architecture", DENSE)
def test_finds_the_last_map_of_every_mlp(make_tiny: MakeTiny, architecture: str) -> None:
    model, _ = make_tiny(architecture, layers=3)
    outputs = find_mlp_outputs(model)
    expected = LAST_MAPS.get(architecture, "down_proj")
    assert [output.layer for output in outputs] == [0, 1, 2]
    for output in outputs:
        assert output.name.endswith(f".{output.layer}.mlp.{expected}")
        assert model.get_submodule(output.name) is output.module
        assert (output.out_features, output.in_features) == (HIDDEN, INNER)
        assert output.weight.shape == (HIDDEN, INNER)


@pytest.mark.parametrize("architecture", DENSE)
def test_the_map_takes_keys_to_outputs(make_tiny: MakeTiny, architecture: str) -> None:
    """``weight`` is W of o = W h (and a bias), whichever way the module stores it."""
    model, _ = make_tiny(architecture)
    output = find_mlp_outputs(model)[1]
    seen: dict[str, torch.Tensor] = {}

    def keep(_module: nn.Module, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        # Falcon adds the attention's output into the MLP's in place.
        seen.update(h=args[0].clone(), o=result.clone())

    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        handle = output.module.register_forward_hook(keep)
        before = model(ids).logits
        handle.remove()
        bias: Any = getattr(output.module, "bias", None)
        expected = seen["h"] @ output.weight.T + (0 if bias is None else bias)
        assert torch.allclose(seen["o"], expected, atol=1e-5)
        output.weight.mul_(1.5)
        assert not torch.equal(model(ids).logits, before)


def test_only_gpt2_stores_its_weight_transposed(make_tiny: MakeTiny) -> None:
    transposed = {
        name: find_mlp_outputs(make_tiny(name)[0])[0].transposed for name in ("gpt2", "llama")
    }
    assert transposed == {"gpt2": True, "llama": False}


@pytest.mark.parametrize("architecture", ["mixtral", "qwen2_moe"])
def test_experts_are_refused(make_tiny: MakeTiny, architecture: str) -> None:
    model, _ = make_tiny(architecture)
    with pytest.raises(ModelNotEditable, match=r"layers\.0\.mlp\.experts is a mixture of experts"):
        find_mlp_outputs(model)


def test_listed_experts_are_refused() -> None:
    model = _Decoder(_Block(experts=2))
    with pytest.raises(ModelNotEditable, match="mixture of experts"):
        find_mlp_outputs(model)


def test_a_quantised_configuration_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    config: Any = model.config
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(ModelNotEditable, match=r"already quantised \(gptq\)"):
        find_mlp_outputs(model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_packed_weights_are_refused(make_tiny: MakeTiny, dtype: torch.dtype) -> None:
    model, _ = make_tiny("llama")
    module: Any = find_mlp_outputs(model)[0].module
    module.weight = nn.Parameter(module.weight.data.to(dtype), requires_grad=False)
    with pytest.raises(ModelNotEditable, match=str(dtype)) as caught:
        find_mlp_outputs(model)
    assert "float32" in caught.value.remedy


def test_a_model_without_decoder_layers_is_refused() -> None:
    with pytest.raises(ModelNotEditable, match="No list of decoder layers"):
        find_mlp_outputs(nn.Sequential(nn.Linear(4, 4)))


def test_a_layer_without_mlp_is_refused() -> None:
    with pytest.raises(ModelNotEditable, match=r"layers\.0 holds no MLP"):
        find_mlp_outputs(_Decoder(nn.Sequential(nn.LayerNorm(8))))


def test_fused_attention_is_not_taken_for_an_mlp() -> None:
    """Its maps have the shape of an MLP; only the true MLP owns an activation."""
    block = _Block(experts=0)
    outputs = find_mlp_outputs(_Decoder(block))
    assert [output.name for output in outputs] == ["layers.0.mlp.down"]


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.act = ACT2FN["silu"]


class _Block(nn.Module):
    def __init__(self, experts: int) -> None:
        super().__init__()
        self.attention = nn.Module()
        self.attention.query_key_value = nn.Linear(8, 32)
        self.attention.dense = nn.Linear(16, 8)
        if experts:
            self.experts = nn.ModuleList(_Mlp() for _ in range(experts))
        else:
            self.mlp = _Mlp()


class _Decoder(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.layers = nn.ModuleList([block])

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding
