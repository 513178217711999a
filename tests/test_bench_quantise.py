"""Rounding to few bits by hand-worked values, and both ways of an edited tiny model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repair.bench.attacks.quantise import (
    SCHEMES,
    WAYS,
    Scheme,
    after_quantisation,
    quantised,
    rounded,
)
from repair.bench.attacks.quantise import steps as rounding_steps
from repair.errors import UsageError
from repair.patient import Patient
from repair.types import Edit, LowRankUpdate
from tests.conftest import HIDDEN, INNER, build_tiny

IDS = [scheme.name for scheme in SCHEMES]


def edit(number: int = 1, layer: int = 1, seed: int = 0) -> Edit:
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(HIDDEN, 2, generator=generator) * 0.1
    a = torch.randn(2, INNER, generator=generator) * 0.1
    return Edit(number, (LowRankUpdate(layer, b, a),))


def make(architecture: str = "llama", dtype: str = "float32") -> Patient:
    return Patient(*build_tiny(architecture, dtype=dtype), name="tiny")


def state(patient: Patient) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in patient.model.state_dict().items()}


def changed(patient: Patient, before: dict[str, Tensor]) -> set[str]:
    now = patient.model.state_dict()
    return {name for name in before if not torch.equal(before[name], now[name])}


def test_four_bits_of_a_channel_by_hand() -> None:
    # The step is 7 / 7 = 1, then 14 / 7 = 2; zeros have none.
    weight = torch.tensor([[7.0, 3.4, -2.6, 0.4], [-14.0, 2.9, 3.1, 0.0], [0.0, 0.0, 0.0, 0.0]])
    expected = [[7.0, 3.0, -3.0, 0.0], [-14.0, 2.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    assert rounded(weight, Scheme(4)).tolist() == expected
    assert rounding_steps(weight, Scheme(4))[:, 0].tolist() == [1.0, 2.0, 0.0]


def test_each_group_has_its_own_step_and_the_last_may_be_shorter() -> None:
    weight = torch.tensor([[7.0, 0.6, 0.7, 0.26, 3.5]])
    assert rounding_steps(weight, Scheme(4, 2)).tolist() == [
        pytest.approx([1.0, 1.0, 0.1, 0.1, 0.5])
    ]
    assert rounded(weight, Scheme(4, 2)).tolist() == [pytest.approx([7.0, 1.0, 0.7, 0.3, 3.5])]


def test_eight_bits_by_hand() -> None:
    weight = torch.tensor([[-127.0, 126.4, 0.6, 1.5]])
    # A tie goes to the even neighbour.
    assert rounded(weight, Scheme(8)).tolist() == [[-127.0, 126.0, 1.0, 2.0]]


@pytest.mark.parametrize("scheme", SCHEMES, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_moves_half_a_step_at_most_and_only_once(
    scheme: Scheme, dtype: torch.dtype
) -> None:
    weight = torch.randn(5, 100, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = rounded(weight, scheme)
    assert found.dtype == dtype
    half = rounding_steps(weight, scheme) / 2
    cast = weight.double().abs().max() * torch.finfo(dtype).eps
    assert ((found.double() - weight.double()).abs() <= half + cast).all()
    assert not torch.equal(found, weight)
    assert torch.equal(rounded(found, scheme), found)
    width = scheme.group or 100
    assert all(
        len(row[start : start + width].unique()) <= 2 * scheme.largest + 1
        for row in found
        for start in range(0, 100, width)
    )


def test_smaller_groups_and_more_bits_err_less() -> None:
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(2))

    def error(scheme: Scheme) -> float:
        return float((rounded(weight, scheme) - weight).square().mean())

    errors = [error(Scheme(*s)) for s in ((8, 64), (8, None), (4, 32), (4, 64), (4, None))]
    assert errors == sorted(errors)


def test_the_linear_maps_are_rounded_and_nothing_else() -> None:
    patient = make()
    before = state(patient)
    copied = quantised(patient, Scheme(4))
    linear = {name for name in before if "_proj." in name}
    assert len(linear) == 14
    assert changed(copied, before) == linear
    weight = before["model.layers.0.self_attn.q_proj.weight"]
    now = copied.model.state_dict()["model.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(now, rounded(weight, Scheme(4)))


def test_a_transposed_weight_is_rounded_by_its_outputs() -> None:
    patient = make("gpt2")
    weight = patient.layers[0].parameter.detach().clone()
    copied = quantised(patient, Scheme(4, 32))
    now = copied.layers[0].parameter
    assert torch.equal(now, rounded(weight.T, Scheme(4, 32)).T)
    assert not torch.equal(now, rounded(weight, Scheme(4, 32)))
    # The head shares its weight with the embedding.
    assert torch.equal(
        copied.model.state_dict()["lm_head.weight"], patient.model.state_dict()["lm_head.weight"]
    )


@pytest.mark.parametrize("way", WAYS)
def test_the_patient_is_left_as_it_is(way: str) -> None:
    patient = make()
    untouched = state(patient)
    patient.apply([edit()])
    before = state(patient)
    copied = quantised(patient, Scheme(4), way)  # type: ignore[arg-type]
    copied.apply([])
    assert changed(patient, before) == set()
    assert [e.id for e in patient.active] == [1]
    patient.apply([])
    assert changed(patient, untouched) == set()


def test_merged_rounds_the_sum_and_an_adapter_keeps_its_precision() -> None:
    patient, scheme, change = make(), Scheme(4, 32), edit()
    original = patient.layers[1].weight.clone()
    patient.apply([change])
    sum_of_both = patient.layers[1].weight.clone()
    merged = quantised(patient, scheme)
    adapter = quantised(patient, scheme, "adapter")
    update = change.updates[0]
    assert torch.equal(merged.layers[1].weight, rounded(sum_of_both, scheme))
    expected = rounded(original, scheme) + update.b @ update.a
    torch.testing.assert_close(adapter.layers[1].weight, expected)
    assert changed(merged, state(adapter)) == {f"{patient.layers[1].name}.weight"}
    # The edit is left out of the quantised base to the bit, but cannot leave a merged one.
    adapter.apply([])
    assert torch.equal(adapter.layers[1].weight, rounded(original, scheme))
    assert merged.active == ()


def test_without_edits_both_ways_are_one() -> None:
    patient = make(dtype="bfloat16")
    one, other = (quantised(patient, Scheme(8), way) for way in WAYS)
    assert changed(one, state(other)) == set()


def test_a_tentative_edit_is_seen_and_still_ends() -> None:
    patient = make()
    untouched = state(patient)
    with patient.trial(edit().updates):
        copied = quantised(patient, Scheme(4), "adapter")
    assert changed(patient, untouched) == set()
    assert len(copied.active) == 1


def test_every_scheme_is_measured_both_ways() -> None:
    patient = make()
    patient.apply([edit()])
    ids = [[1, 5, 9, 40]]
    logits = patient.forward(ids)
    found = after_quantisation(patient, lambda p: float((p.forward(ids) - logits).norm()))
    assert set(found) == {(name, way) for name in IDS for way in WAYS}
    assert all(value > 0 for value in found.values())
    assert found["8 bits per 64", "merged"] < found["4 bits per 64", "merged"]


@pytest.mark.parametrize(("bits", "group"), [(1, None), (9, None), (4, 0)])
def test_an_impossible_scheme_is_refused(bits: int, group: int | None) -> None:
    with pytest.raises(UsageError, match="bits"):
        Scheme(bits, group)


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(UsageError, match="merged or adapter"):
        quantised(make(), Scheme(4), "both")  # type: ignore[arg-type]
