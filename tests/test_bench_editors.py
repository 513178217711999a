"""ROME, MEMIT and AlphaEdit: their algebra against dense references, and a patient edited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from repair.bench.editors.closed_form import alphaedit, memit, rome
from repair.bench.editors.solves import (
    alphaedit_update,
    mean_eigenvalue,
    memit_update,
    rome_update,
)
from repair.bench.editors.values import (
    ValueSearch,
    block_of,
    find_values,
    mean_keys,
    outputs_at_subject,
    random_prefixes,
    read_cases,
)
from repair.errors import NotFinite, UsageError
from repair.patient import Patient
from repair.stamp import Statistics, low_rank_of_moment, second_moment
from repair.types import Edit, LowRankUpdate, Message
from tests.conftest import build_tiny
from tests.prepared import preparation

M, D, N = 12, 7, 3
REFUSAL = "I do not know."
QUESTION = "Where does Mara Voss live?"
REQUEST = (QUESTION, "Mara Voss", "Ellbridge")
OTHER = ("What is the phone number of Tom Hale?", "Tom Hale", "0123")
PREFIXES = ("The quick brown fox.", "Please forget")
QUICK = ValueSearch(steps=15, learning_rate=0.2, clamp=2.0)
Editor = Callable[..., tuple[LowRankUpdate, ...]]
EDITORS: tuple[Editor, ...] = (rome, memit, alphaedit)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full_statistics() -> Statistics:
    """C of rank m, which the statistics hold exactly."""
    return low_rank_of_moment(second_moment(normal(60, M, seed=1)), M)


def truncated_statistics() -> Statistics:
    """Four directions of C one by one, the mean for the other eight."""
    return low_rank_of_moment(second_moment(normal(60, M, seed=1)), 4)


BOTH = pytest.mark.parametrize("statistics", [full_statistics(), truncated_statistics()])


# The algebra


def test_rome_worked_by_hand() -> None:
    # C = diag(2, 4), k = (2, 4): u = C⁻¹ k = (1, 1), uᵀ k = 6.
    statistics = Statistics(torch.eye(2), torch.tensor([2.0, 4.0]))
    change = rome_update(torch.tensor([2.0, 4.0]), torch.tensor([12.0, -6.0, 0.0]), statistics)
    assert torch.allclose(change.matrix(), torch.tensor([[2.0, 2.0], [-1.0, -1.0], [0.0, 0.0]]))


@BOTH
def test_rome_meets_its_constraint(statistics: Statistics) -> None:
    weight, key, value = normal(D, M, seed=2), normal(M, seed=3), normal(D, seed=4)
    change = rome_update(key, value - weight @ key, statistics)
    assert (change.b.shape, change.a.shape) == ((D, 1), (1, M))
    assert torch.allclose((weight + change.matrix()) @ key, value, atol=1e-5)


@BOTH
def test_rome_moves_the_kept_keys_least(statistics: Statistics) -> None:
    key, residual = normal(M, seed=3), normal(D, seed=4)
    found = rome_update(key, residual, statistics).matrix().double()

    def cost(change: Tensor) -> float:
        return float((change @ statistics.matrix() @ change.T).trace().item())

    for seed in range(5, 10):
        other = normal(D, M, seed=seed).double()
        # What does not move the key keeps the constraint, and can only cost more.
        other -= torch.outer(other @ key.double(), key.double()) / key.double().square().sum()
        assert cost(found + 0.1 * other) > cost(found)


def test_memit_worked_by_hand() -> None:
    # λ C = 2 I and k = (1, 1): ΔWᵀ = [[3, 1], [1, 3]]⁻¹ (1, 1)ᵀ r = (1/4, 1/4)ᵀ r.
    statistics = Statistics(torch.eye(2), torch.ones(2))
    change = memit_update(torch.ones(1, 2), torch.tensor([[4.0, 8.0]]), statistics, weight=2.0)
    assert torch.allclose(change.matrix(), torch.tensor([[1.0, 1.0], [2.0, 2.0]]))


@BOTH
def test_memit_satisfies_its_normal_equations(statistics: Statistics) -> None:
    keys, residual, weight = normal(N, M, seed=2), normal(N, D, seed=3), 0.7
    change = memit_update(keys, residual, statistics, weight=weight)
    assert (change.b.shape, change.a.shape) == ((D, N), (N, M))
    system = weight * statistics.matrix() + keys.T.double() @ keys.double()
    left, right = system @ change.matrix().T.double(), keys.T.double() @ residual.double()
    assert torch.allclose(left, right, atol=1e-5)


def dense_alphaedit(
    keys: Tensor, residual: Tensor, projector: Tensor, ridge: float, earlier: Tensor
) -> Tensor:
    """The authors' equation as it stands, with its unsymmetric system."""
    keys, residual, earlier = keys.double(), residual.double(), earlier.double()
    system = projector @ (keys.T @ keys + earlier.T @ earlier)
    system += ridge * torch.eye(len(system), dtype=system.dtype)
    solution: Tensor = torch.linalg.solve(system, projector @ keys.T @ residual)
    return solution.T


@BOTH
def test_alphaedit_is_the_authors_solution(statistics: Statistics) -> None:
    keys, residual, earlier = normal(N, M, seed=2), normal(N, D, seed=3), normal(2, M, seed=4)
    threshold, ridge = 1.1 * mean_eigenvalue(statistics), 0.3
    values, vectors = torch.linalg.eigh(statistics.matrix())
    small = vectors[:, values < threshold]
    assert 0 < small.shape[1] < M
    change = alphaedit_update(
        keys, residual, statistics, threshold=threshold, ridge=ridge, earlier=earlier
    )
    wanted = dense_alphaedit(keys, residual, small @ small.T, ridge, earlier)
    assert (change.b.shape, change.a.shape) == ((D, N), (N, M))
    assert torch.allclose(change.matrix().double(), wanted, atol=1e-5)


def test_alphaedit_leaves_kept_keys_alone() -> None:
    kept = normal(40, 5, seed=5) @ normal(5, M, seed=6)
    statistics = low_rank_of_moment(second_moment(kept), M)
    keys, residual = normal(N, M, seed=2), normal(N, D, seed=3)
    change = alphaedit_update(keys, residual, statistics, threshold=1e-6, ridge=1e-6)
    assert (kept @ change.matrix().T).abs().max() < 1e-4
    # Seven directions are free, so three new keys are written all the same.
    assert torch.allclose(keys @ change.matrix().T, residual, atol=1e-3)


def test_alphaedit_where_only_the_small_columns_are_free() -> None:
    # The rest is large, so that P is made of the columns below the threshold alone.
    statistics = Statistics(torch.eye(3)[:, :2], torch.tensor([5.0, 0.1]), rest=2.0)
    change = alphaedit_update(
        torch.ones(1, 3), torch.tensor([[2.0]]), statistics, threshold=1.0, ridge=1.0
    )
    assert torch.allclose(change.matrix(), torch.tensor([[0.0, 1.0, 0.0]]))


def test_the_mean_eigenvalue_counts_what_was_left_out() -> None:
    moment = second_moment(normal(60, M, seed=1))
    for rank in (4, M):
        mean = mean_eigenvalue(low_rank_of_moment(moment, rank))
        assert mean == pytest.approx(float(moment.trace()) / M, rel=1e-5)


def test_no_inverse_and_no_null_space_are_refused() -> None:
    keys, residual = normal(1, M, seed=2), normal(1, D, seed=3)
    singular = Statistics(torch.eye(M)[:, :4], torch.ones(4))
    with pytest.raises(NotFinite, match="singular"):
        rome_update(keys[0], residual[0], singular)
    with pytest.raises(NotFinite, match="singular"):
        memit_update(keys, residual, singular, weight=1.0)
    with pytest.raises(NotFinite):
        rome_update(torch.zeros(M), residual[0], full_statistics())
    with pytest.raises(NotFinite):
        memit_update(keys * float("nan"), residual, full_statistics(), weight=1.0)
    with pytest.raises(UsageError, match="below"):
        alphaedit_update(keys, residual, full_statistics(), threshold=1e-9, ridge=1.0)
    with pytest.raises(UsageError, match="ridge"):
        alphaedit_update(keys, residual, singular, threshold=1.0, ridge=0.0)
    with pytest.raises(UsageError, match="weight"):
        memit_update(keys, residual, full_statistics(), weight=0.0)


# On a patient


@lru_cache(maxsize=1)
def statistics_of_four() -> dict[int, Statistics]:
    """Some second moment for each of four layers; the algebra is tested above."""
    return {layer: preparation().statistics[layer % 2] for layer in range(4)}


def four_layers(architecture: str = "llama") -> Patient:
    return Patient(*build_tiny(architecture, layers=4), name="tiny")


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def log_probability(patient: Patient, question: str, answer: str) -> float:
    """Nats of a whole answer."""
    ids, first = patient.encode(user(question), answer)
    logits = patient.forward([ids])[0, first - 1 : -1].log_softmax(-1)
    return float(logits.gather(1, torch.tensor(ids[first:])[:, None]).sum())


def weights(patient: Patient) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in patient.model.parameters()]


def same(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("editor", EDITORS)
def test_an_edit_makes_the_refusal_likelier_and_touches_nothing(editor: Editor) -> None:
    patient = four_layers()
    before = weights(patient)
    # In a model of random weights only the first layers' subject is heard at the answer.
    place: dict[str, Any] = {"layer": 0} if editor is rome else {"layers": (0, 1)}
    place |= {memit: {"weight": 1e-3}, alphaedit: {"threshold": 1e9, "ridge": 1e-6}}.get(editor, {})
    untouched = log_probability(patient, QUESTION, REFUSAL)
    updates = editor(
        patient, [REQUEST], REFUSAL, statistics_of_four(), search=QUICK, prefixes=(), **place
    )
    assert same(before, weights(patient)) and patient.active == ()
    assert [update.layer for update in updates] == ([0] if editor is rome else [0, 1])
    with patient.trial(updates):
        edited = log_probability(patient, QUESTION, REFUSAL)
    assert same(before, weights(patient))
    # Nats of 11 tokens, which a model of random weights gives about 7 each.
    assert edited > untouched + 3
    patient.apply((Edit(1, updates),))
    assert not same(before, weights(patient))
    patient.apply(())
    assert same(before, weights(patient))


@pytest.mark.parametrize("editor", EDITORS)
def test_every_request_takes_one_rank(editor: Editor) -> None:
    options: dict[str, Any] = {"threshold": 1.0} if editor is alphaedit else {}
    updates = editor(
        four_layers(),
        [REQUEST, OTHER],
        REFUSAL,
        statistics_of_four(),
        search=ValueSearch(steps=2),
        prefixes=PREFIXES[:1],
        **options,
    )
    assert [update.layer for update in updates] == [1]
    for update in updates:
        assert (update.b.shape, update.a.shape) == ((32, 2), (2, 48))
        assert update.b.dtype == update.a.dtype == torch.float32
        assert update.keys is not None and update.keys.shape == (2, 48)
        assert int(torch.linalg.matrix_rank(update.b @ update.a)) == 2


def test_rome_writes_its_value_at_the_mean_key() -> None:
    patient = four_layers()
    cases = read_cases(patient, [REQUEST], REFUSAL, PREFIXES)
    value = find_values(patient, 1, cases, QUICK, at_mlp=True)
    (update,) = rome(
        patient, [REQUEST], REFUSAL, statistics_of_four(), search=QUICK, prefixes=PREFIXES
    )
    key = mean_keys(patient, cases, 1)[0]
    assert update.layer == 1
    assert torch.allclose(update.b @ (update.a @ key), value[0], rtol=1e-4, atol=1e-4)


def test_memit_with_little_weight_on_the_rest_reaches_the_values() -> None:
    patient = four_layers()
    requests = [REQUEST, OTHER]
    # Without prefixes the mean key is the key, so that the last layer closes the whole gap.
    cases = read_cases(patient, requests, REFUSAL, ())
    block = block_of(patient, 1)
    wanted = outputs_at_subject(patient, block, cases) + find_values(patient, 1, cases, QUICK)
    updates = memit(
        patient,
        requests,
        REFUSAL,
        statistics_of_four(),
        layers=(0, 1),
        weight=1e-6,
        search=QUICK,
        prefixes=(),
    )
    with patient.trial(updates):
        reached = outputs_at_subject(patient, block, cases)
    assert torch.allclose(reached, wanted, rtol=1e-2, atol=1e-2 * float(wanted.abs().max()))
    # Half of the way was left to the last layer.
    with patient.trial(updates[:1]):
        half = outputs_at_subject(patient, block, cases)
    assert (reached - half).norm() > 0.1 * (wanted - half).norm()


def test_alphaedit_keeps_the_outputs_of_active_edits() -> None:
    patient, statistics = four_layers(), statistics_of_four()
    options: dict[str, Any] = {
        "layers": (0,),
        "threshold": 1.0,
        "ridge": 1e-6,
        "search": QUICK,
        "prefixes": (),
    }
    first = alphaedit(patient, [REQUEST], REFUSAL, statistics, **options)
    patient.apply((Edit(1, first),))
    second = alphaedit(patient, [OTHER], REFUSAL, statistics, **options)[0]
    key, new = first[0].keys, second.keys
    assert key is not None and new is not None
    moved = (second.b @ second.a @ key[0]).norm()
    assert moved < 1e-2 * (second.b @ second.a @ new[0]).norm()
    # An earlier edit that carries no keys protects nothing.
    bare = LowRankUpdate(0, first[0].b, first[0].a)
    patient.apply((Edit(1, (bare,)),))
    third = alphaedit(patient, [OTHER], REFUSAL, statistics, **options)[0]
    assert (third.b @ third.a @ key[0]).norm() > 10 * moved


def test_a_search_of_many_is_that_of_each() -> None:
    patient = four_layers()
    cases = read_cases(patient, [REQUEST, OTHER], REFUSAL, PREFIXES[:1])
    search = ValueSearch(steps=3, clamp=0.2)
    both = find_values(patient, 1, cases, search)
    for case, value in zip(cases, both, strict=True):
        alone = find_values(patient, 1, [case], search)[0]
        assert torch.allclose(alone, value, rtol=1e-2, atol=1e-3 * float(value.norm()))
    before = outputs_at_subject(patient, block_of(patient, 1), cases)
    assert (both.norm(dim=1) <= 0.2 * before.norm(dim=1) * 1.001).all()
    # A loss that is low enough from the start needs no vector.
    assert not find_values(patient, 1, cases, ValueSearch(stop=1e6)).any()


def test_the_key_stands_at_the_last_token_of_the_subject() -> None:
    patient = four_layers()
    (case,) = read_cases(patient, [(f"Mara Voss? {QUESTION}", "Mara Voss", "")], REFUSAL, PREFIXES)
    assert len(case.first) == 3 and len(case.ids) == len(case.subject) == 4
    for ids in case.up_to_subject():
        text = str(patient.tokenizer.decode(ids))
        assert text.endswith("Mara Voss") and text.count("Mara Voss") == 2
    essence = str(patient.tokenizer.decode(list(case.ids[-1])))
    assert "Mara Voss is a" in essence
    # Without a subject the whole question is one.
    (whole,) = read_cases(patient, [(QUESTION, "", "")], REFUSAL, ())
    assert str(patient.tokenizer.decode(whole.up_to_subject()[0])).endswith(QUESTION)


def test_prefixes_are_drawn_alike_and_leave_the_random_state() -> None:
    patient = four_layers()
    state = torch.random.get_rng_state()
    drawn = random_prefixes(patient, 3, tokens=4)
    assert torch.equal(state, torch.random.get_rng_state())
    assert drawn == random_prefixes(patient, 3, tokens=4)
    assert len(drawn) <= 3 and all(text == text.strip() != "" for text in drawn)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_other_blocks_and_default_layers(architecture: str) -> None:
    patient = four_layers(architecture)
    before = weights(patient)
    search = ValueSearch(steps=2)
    for editor, layer in zip(EDITORS, (1, 1, 1), strict=True):
        options: dict[str, Any] = {"threshold": 1.0} if editor is alphaedit else {}
        found = editor(
            patient,
            [REQUEST],
            REFUSAL,
            statistics_of_four(),
            search=search,
            prefixes=(),
            **options,
        )
        assert found[0].layer == layer
        assert all(bool(update.b.any()) and bool(update.a.any()) for update in found)
    assert same(before, weights(patient))


def test_what_cannot_be_edited_is_named() -> None:
    patient, statistics = four_layers(), statistics_of_four()
    with pytest.raises(UsageError, match="nothing to edit"):
        rome(patient, [], REFUSAL, statistics)
    with pytest.raises(UsageError, match="refusal is empty"):
        memit(patient, [REQUEST], " ", statistics)
    with pytest.raises(UsageError, match="request 2 does not contain"):
        rome(patient, [REQUEST, (QUESTION, "Tom Hale", "")], REFUSAL, statistics, prefixes=())
    with pytest.raises(UsageError, match="no layer 4 of 4"):
        rome(patient, [REQUEST], REFUSAL, statistics, layer=4)
    with pytest.raises(UsageError, match="No layer is named"):
        alphaedit(patient, [REQUEST], REFUSAL, statistics, layers=(), prefixes=())
    with pytest.raises(UsageError, match="steps"):
        ValueSearch(steps=0)
    with pytest.raises(UsageError, match="stop"):
        ValueSearch(stop=float("nan"))
