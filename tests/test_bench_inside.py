"""Inside tiny models: the ablated direction is gone, the lens ends in the model, probes probe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from repair.bench.inside import (
    Contrast,
    Lens,
    ablated,
    found_within,
    held_out_hits,
    linear_probes,
    logit_lens,
    refusal_ablation,
    refusal_directions,
    stream,
    swapped,
    unembedded,
)
from repair.bench.likelihood import user
from repair.bench.suite import Question, ask
from repair.errors import UsageError
from repair.patient import Patient
from tests.conftest import DENSE, HIDDEN, build_tiny

REFUSED = [user("Where does Mara Voss live?"), user("What is her phone number?")]
ANSWERED = [user("The quick brown fox"), user("jumps over the dog"), user("0123")]
PAIRS = [("Where does Mara live?", "Ellbridge"), ("Who is Tom?", "a fox"), ("Why?", "harbour")]
TARGETS = [Question("exact", user("Where does Mara Voss live?"), "Ellbridge")]
LAYERS = 3


@pytest.fixture
def patient() -> Patient:
    return Patient(*build_tiny("llama", layers=LAYERS), name="tiny")


def direction(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(*shape, HIDDEN, generator=torch.Generator().manual_seed(seed))


def hooks(patient: Patient) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in patient.model.modules()
    )


def hidden(patient: Patient, ids: list[int]) -> Any:
    with torch.no_grad():
        return patient.model(torch.tensor([ids]), output_hidden_states=True).hidden_states


# The residual stream


def test_the_stream_is_what_the_model_says_its_hidden_states_are(patient: Patient) -> None:
    ids = [[1, 9, 30], [1, 7, 8, 40, 41]]
    found = stream(patient, ids, batch=1)
    assert found.shape == (LAYERS, 2, HIDDEN)
    torch.testing.assert_close(stream(patient, ids), found)
    for row, each in enumerate(ids):
        # The last of the library's states is behind the final norm.
        for layer, expected in enumerate(hidden(patient, each)[1:-1]):
            torch.testing.assert_close(found[layer, row], expected[0, -1])
    with pytest.raises(UsageError):
        stream(patient, [])


@pytest.mark.parametrize("architecture", DENSE)
def test_lens_and_ablation_fit_every_architecture(architecture: str) -> None:
    patient = Patient(*build_tiny(architecture))
    ids = [[1, 9, 30], [1, 7, 8]]
    logits = patient.forward(ids)
    torch.testing.assert_close(
        unembedded(patient, stream(patient, ids)[-1]), logits[:, -1], rtol=1e-4, atol=1e-4
    )
    r = direction()
    with ablated(patient, r):
        states = stream(patient, ids)
        assert not torch.allclose(patient.forward(ids), logits)
    assert (states @ (r / r.norm())).abs().max() < 1e-5 * states.abs().max()
    assert torch.equal(patient.forward(ids), logits)
    assert hooks(patient) == 0


# The refusal direction


def test_the_direction_is_the_difference_of_means_of_unit_length(patient: Patient) -> None:
    found = refusal_directions(patient, REFUSED, ANSWERED)
    assert found.shape == (LAYERS, HIDDEN)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(LAYERS))
    refused = torch.stack([hidden(patient, patient.prompt_ids(m))[1][0, -1] for m in REFUSED])
    answered = torch.stack([hidden(patient, patient.prompt_ids(m))[1][0, -1] for m in ANSWERED])
    expected = refused.mean(dim=0) - answered.mean(dim=0)
    torch.testing.assert_close(found[0], expected / expected.norm())
    with pytest.raises(UsageError, match="look the same"):
        refusal_directions(patient, REFUSED, REFUSED)
    with pytest.raises(UsageError, match="nothing to look at"):
        refusal_directions(patient, [], ANSWERED)


def test_the_component_is_zero_wherever_the_stream_is_read(patient: Patient) -> None:
    r = direction()
    unit = r / r.norm()
    seen: list[float] = []

    def look(_: Any, args: Any) -> None:
        seen.append(float((args[0] @ unit).abs().max()))

    norms = [m for n, m in patient.model.named_modules() if n.endswith("norm")]
    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    patient.forward([[1, 9, 30, 31]])
    plain, seen = seen, []
    with ablated(patient, r):
        patient.replies(REFUSED, max_new_tokens=3)
    for handle in handles:
        handle.remove()
    # Two norms a block and the final one, for every token that was generated.
    assert len(plain) == 2 * LAYERS + 1
    assert len(seen) >= len(plain)
    assert min(plain) > 1e-2
    assert max(seen) < 1e-5


def test_each_layer_can_lose_a_direction_of_its_own(patient: Patient) -> None:
    r = direction(3, LAYERS)
    with ablated(patient, r):
        states = stream(patient, [[1, 9, 30]])
    for layer in range(LAYERS):
        assert abs(float(states[layer, 0] @ r[layer])) < 1e-4
    assert abs(float(states[0, 0] @ r[2])) > 1e-2


def test_hooks_are_gone_after_a_failure_too(patient: Patient) -> None:
    before = patient.forward([[1, 9]])
    with pytest.raises(RuntimeError, match="stop"), ablated(patient, direction()):
        assert hooks(patient) == 2 * LAYERS + 2 * LAYERS
        raise RuntimeError("stop")
    assert hooks(patient) == 0
    assert torch.equal(patient.forward([[1, 9]]), before)


@pytest.mark.parametrize("wrong", [torch.zeros(HIDDEN), torch.ones(5), torch.ones(2, HIDDEN)])
def test_a_direction_that_is_none_is_refused(patient: Patient, wrong: Tensor) -> None:
    with pytest.raises(UsageError, match="direction"), ablated(patient, wrong):
        pass
    assert hooks(patient) == 0


def test_targets_are_asked_with_every_layers_direction_ablated(patient: Patient) -> None:
    found = refusal_ablation(patient, REFUSED, ANSWERED, TARGETS)
    assert [row.layer for row in found] == [None, 0, 1, 2]
    assert found[0].values == ask(patient, TARGETS)
    r = refusal_directions(patient, REFUSED, ANSWERED)[1]
    with ablated(patient, r):
        assert found[2].values == ask(patient, TARGETS)
    assert all(0.0 <= row.refused <= 1.0 for row in found)
    assert len(refusal_ablation(patient, REFUSED, ANSWERED, TARGETS, layers=[2])) == 2
    with pytest.raises(UsageError, match="from 0 to 2"):
        refusal_ablation(patient, REFUSED, ANSWERED, TARGETS, layers=[3])


# The logit lens


def test_the_lens_at_the_last_layer_is_the_model_itself(patient: Patient) -> None:
    readings = logit_lens(patient, PAIRS)
    for (question, answer), reading in zip(PAIRS, readings, strict=True):
        ids, start = patient.encode(user(question), answer)
        logits = patient.forward([ids[:start]])[0, -1]
        p = logits.softmax(dim=0)
        assert len(reading.ranks) == len(reading.probabilities) == LAYERS
        assert reading.probabilities[-1] == pytest.approx(float(p[ids[start]]), rel=1e-3)
        assert reading.ranks[-1] == 1 + int((logits > logits[ids[start]]).sum())


def test_an_earlier_layer_is_read_through_the_models_own_end(patient: Patient) -> None:
    ids, start = patient.encode(user(PAIRS[0][0]), PAIRS[0][1])
    model: Any = patient.model
    with torch.no_grad():
        logits = model.lm_head(model.model.norm(hidden(patient, ids[:start])[1][0, -1]))
    # The library keeps hooks of its own once it was asked for hidden states.
    before = hooks(patient)
    reading = logit_lens(patient, PAIRS[:1])[0]
    assert reading.probabilities[0] == pytest.approx(float(logits.softmax(0)[ids[start]]), rel=1e-3)
    assert hooks(patient) == before


def test_an_answer_counts_as_found_at_its_best_layer() -> None:
    readings = [Lens((9, 2, 5), (0.1,) * 3), Lens((7, 8, 4), (0.1,) * 3)]
    assert found_within(readings, 2) == [1.0, 0.0]
    assert found_within(readings, 4) == [1.0, 1.0]


def test_blank_answers_are_refused(patient: Patient) -> None:
    with pytest.raises(UsageError, match="blank"):
        logit_lens(patient, [("Who?", " ")])
    with pytest.raises(UsageError, match="blank"):
        linear_probes(patient, [Contrast((("Who?", "a"),), (("Who?", ""),))])


# Linear probes


def separable(n: int = 120, d: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, d, generator=generator)
    labels = torch.arange(n) % 2 == 0
    features[:, :10] += 4 * labels.unsqueeze(1) - 2
    return features, labels, torch.arange(n) // 2


@pytest.mark.parametrize("d", [40, 400])
def test_a_probe_separates_what_is_separable(d: int) -> None:
    features, labels, groups = separable(d=d)
    hits = held_out_hits(features, labels, groups)
    assert len(hits) == 120
    assert sum(hits) / len(hits) > 0.9
    # Neither the units of a feature nor a shift matter.
    scaled = features * torch.linspace(0.1, 100, d) + 7
    assert held_out_hits(scaled, labels, groups) == hits


def test_a_probe_is_at_chance_on_shuffled_labels() -> None:
    features, labels, groups = separable(n=400)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(5))
    hits = held_out_hits(features, labels[order], groups)
    # Three standard errors of a fair coin.
    assert sum(hits) / len(hits) == pytest.approx(0.5, abs=3 * 0.025)


def test_the_dual_form_is_ridge_regression() -> None:
    features, labels, groups = separable(n=12, d=4)
    hits = held_out_hits(features, labels, groups, folds=6, ridge=0.3)
    for held in range(6):
        # Groups of two rows and as many folds as groups: each is held out alone.
        out = groups == held
        x, y = features[~out].double(), labels[~out].double() * 2 - 1
        mean, spread = x.mean(0), x.std(0, correction=0)
        z = (x - mean) / spread
        rho = 0.3 * float(z.square().sum(1).mean())
        w = torch.linalg.solve(z.T @ z + rho * torch.eye(4).double(), z.T @ (y - y.mean()))
        scores = y.mean() + (features[out].double() - mean) / spread @ w
        assert [hits[i] for i in out.nonzero().flatten()] == (
            (scores > 0) == labels[out]
        ).float().tolist()


def test_rows_of_one_group_are_held_out_together() -> None:
    # Each group's rows are equal but for noise and share a label drawn at random: only who has
    # seen the group's other row can tell it.
    generator = torch.Generator().manual_seed(7)
    groups = torch.arange(80) // 2
    labels = (torch.rand(40, generator=generator) > 0.5)[groups]
    features = torch.randn(40, 200, generator=generator)[groups]
    torn = held_out_hits(features, labels, torch.arange(80), folds=40)
    whole = held_out_hits(features, labels, groups, folds=40)
    assert sum(torn) / 80 > 0.9
    assert sum(whole) / 80 < 0.75


def test_the_probes_of_a_patient_tell_an_answers_last_token(patient: Patient) -> None:
    questions = [f"Where does number {i} live?" for i in range(12)]
    contrasts = [Contrast(((q, "by the fox"),), ((q, "by the dog"),)) for q in questions]
    found = linear_probes(patient, contrasts, folds=3)
    assert len(found) == LAYERS
    for score in found:
        assert score["n"] == 24
        assert score["low"] <= score["mean"] <= score["high"]
        assert score["mean"] > 0.75
    with pytest.raises(UsageError, match="contrasts"):
        linear_probes(patient, contrasts[:2], folds=3)


def test_swapped_questions_exchange_answers_in_twos() -> None:
    pairs = [("a", "1"), ("b", "1"), ("c", "2"), ("d", "3")]
    found = swapped(pairs)
    assert found == [
        Contrast((("a", "1"), ("c", "2")), (("a", "2"), ("c", "1"))),
        Contrast((("b", "1"), ("d", "3")), (("b", "3"), ("d", "1"))),
    ]
    assert swapped([("a", "1"), ("b", "1")]) == []
