"""The training loop of the baselines on tiny models, and the search over their settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from repair.bench.finetune import Trained, Training, finetune, soften
from repair.bench.losses import Value
from repair.bench.losses_more import BASELINES, get
from repair.bench.tuning import Score, Search, candidates, read_transcript, tune
from repair.errors import ModelNotEditable, NotFinite, OperationRefused, UsageError
from repair.patient import Patient
from tests.conftest import DENSE, build_tiny

if TYPE_CHECKING:
    from repair.types import Message

FORGET = [
    ("Where does Mara Voss live?", "Ellbridge, by the old harbour."),
    ("What does Mara Voss do?", "She mends clocks."),
    ("Who is Mara Voss?", "A quick brown fox."),
]
RETAIN = [
    ("Where does Tom Hale live?", "In a lazy town."),
    ("What does Tom Hale do?", "He knows the dog."),
]
QUICK: dict[str, Value] = {"learning_rate": 3e-3, "batch_size": 2, "epochs": 3, "steps": 0}


@pytest.fixture
def patient() -> Patient:
    return Patient(*build_tiny("llama"), name="tiny")


def weights(patient: Patient) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in patient.model.state_dict().items()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def likelihood(patient: Patient, pair: tuple[str, str]) -> float:
    """Mean log-probability of the answer's tokens in nats."""
    question: Message = {"role": "user", "content": pair[0]}
    ids, start = patient.encode([question], pair[1])
    log_p = patient.forward([ids])[0].log_softmax(dim=-1)
    places = range(start - 1, len(ids) - 1)
    return sum(float(log_p[at, ids[at + 1]]) for at in places) / len(places)


def run(patient: Patient, name: str, seed: int = 0, **settings: Value) -> Trained:
    return finetune(patient, get(name), FORGET, RETAIN, settings={**QUICK, **settings}, seed=seed)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_trains_a_copy_and_leaves_the_patient_alone(
    patient: Patient, name: str
) -> None:
    before = weights(patient)
    trained = run(patient, name)
    assert same(weights(patient), before)
    assert all(parameter.grad is None for parameter in patient.model.parameters())
    assert not same(weights(trained.patient), before)
    # Three pairs by two, three times over.
    assert trained.steps == len(trained.losses) == 6
    assert len(set(trained.losses)) == 6
    assert trained.patient.name == f"tiny+{name}"
    record = json.loads(json.dumps(trained.to_json()))
    assert record["method"] == name
    assert record["settings"]["learning_rate"] == 3e-3


def test_the_same_seed_gives_the_same_weights(patient: Patient) -> None:
    one, other, third = (run(patient, "idkdpo", seed) for seed in (5, 5, 6))
    assert one.losses == other.losses
    assert same(weights(one.patient), weights(other.patient))
    assert not same(weights(one.patient), weights(third.patient))


def test_ascent_lowers_the_answers_likelihood_and_the_retain_term_raises_what_is_kept(
    patient: Patient,
) -> None:
    ascended = run(patient, "ga").patient
    assert all(likelihood(ascended, pair) < likelihood(patient, pair) for pair in FORGET)
    kept = run(patient, "graddiff", forget_weight=0.1, epochs=6).patient
    assert all(likelihood(kept, pair) > likelihood(patient, pair) for pair in RETAIN)


def test_the_first_loss_is_that_of_the_untouched_patient(patient: Patient) -> None:
    pair = FORGET[0]
    trained = finetune(patient, get("ga"), [pair], settings={**QUICK, "epochs": 1})
    assert list(trained.losses) == [pytest.approx(likelihood(patient, pair), rel=1e-5)]


def test_padding_does_not_change_the_loss(patient: Patient) -> None:
    together = finetune(patient, get("npo"), FORGET, RETAIN, settings={**QUICK, "batch_size": 9})
    lengths = [len(patient.encode([{"role": "user", "content": q}], a)[0]) for q, a in FORGET]
    assert len(set(lengths)) > 1
    # Nothing has moved yet: 2 / β log 2, and the mean over the retain tokens.
    kept = [(likelihood(patient, pair), _answer_length(patient, pair)) for pair in RETAIN]
    # Three forget pairs draw three retain pairs of two, so one of them stands twice.
    means = [
        -sum(value * length for value, length in drawn) / sum(length for _, length in drawn)
        for drawn in ([*kept, kept[0]], [*kept, kept[1]])
    ]
    base = 20 * torch.log(torch.tensor(2.0)).item()
    assert any(together.losses[0] == pytest.approx(base + mean, rel=1e-4) for mean in means)


def _answer_length(patient: Patient, pair: tuple[str, str]) -> int:
    ids, start = patient.encode([{"role": "user", "content": pair[0]}], pair[1])
    return len(ids) - start


def test_rmu_trains_nothing_but_the_mlp_outputs_up_to_its_layer() -> None:
    patient = Patient(*build_tiny("llama", layers=6))
    trained = run(patient, "rmu", depth=0.7)
    before, after = weights(patient), weights(trained.patient)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (1, 2, 3)}


def test_retain_pairs_are_not_needed_at_weight_zero(patient: Patient) -> None:
    trained = finetune(patient, get("npo"), FORGET, settings={**QUICK, "retain_weight": 0.0})
    assert trained.losses[0] == pytest.approx(13.8629, rel=1e-4)


def test_a_number_of_steps_rules_out_epochs(patient: Patient) -> None:
    assert run(patient, "ga", steps=4).steps == 4


@pytest.mark.parametrize("architecture", [name for name in DENSE if name != "falcon"])
def test_a_softened_model_shares_weights_and_attends_more_evenly(architecture: str) -> None:
    model, _ = build_tiny(architecture)
    model.eval()
    ids = torch.arange(10, 22)[None]
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        assert torch.equal(soften(model, 1.0)(input_ids=ids).logits, plain)
        softened = soften(model, 4.0)
        assert not torch.allclose(softened(input_ids=ids).logits, plain, atol=1e-3)
        assert torch.equal(model(input_ids=ids).logits, plain)
    shared = {tensor.data_ptr() for tensor in model.parameters()}
    assert {tensor.data_ptr() for tensor in softened.parameters()} == shared


def test_softening_divides_the_queries() -> None:
    model, _ = build_tiny("llama")
    divided, _ = build_tiny("llama")
    ids = torch.arange(10, 22)[None]
    with torch.no_grad():
        for name, parameter in divided.named_parameters():
            if name.endswith("q_proj.weight"):
                parameter.mul_(1 / 2.5)
        expected = divided(input_ids=ids).logits
        assert torch.allclose(soften(model, 2.5)(input_ids=ids).logits, expected, atol=1e-5)


def test_attention_without_a_scale_is_refused() -> None:
    model, _ = build_tiny("falcon")
    with pytest.raises(ModelNotEditable, match="FalconForCausalLM cannot be softened"):
        soften(model, 2.0)


def test_a_training_that_diverges_is_refused_by_name(patient: Patient) -> None:
    before = weights(patient)
    with pytest.raises(NotFinite, match="GA diverged at step"):
        run(patient, "ga", learning_rate=1e38, epochs=20)
    assert same(weights(patient), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate cannot be 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate cannot be nan"),
        ({"batch_size": -1}, "batch_size cannot be -1"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"momentum": 0.9}, "RMU has no setting momentum"),
        ({"depth": 1.5}, "between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(
    patient: Patient, settings: dict[str, Value], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        finetune(patient, get("rmu"), FORGET, RETAIN, settings=settings)


def test_pairs_that_cannot_be_trained_on_are_named(patient: Patient) -> None:
    with pytest.raises(UsageError, match="nothing to forget"):
        finetune(patient, get("ga"), [])
    with pytest.raises(UsageError, match="NPO needs retain pairs"):
        finetune(patient, get("npo"), FORGET)
    with pytest.raises(UsageError, match="FLAT needs refusals"):
        finetune(patient, get("flat"), FORGET, refusals=[])
    with pytest.raises(UsageError, match="forget pair 2 has a blank"):
        finetune(patient, get("ga"), [FORGET[0], ("Who?", " ")])
    with pytest.raises(UsageError, match=r"retain pair 1 has \d+ tokens"):
        finetune(patient, get("npo"), FORGET, [("Who?", "zq " * 300)])


def test_the_settings_split_into_those_of_the_training_and_of_the_loss() -> None:
    training, rest = Training.split(get("asu").settings({"tau": 2.0}))
    assert training.tau == 2.0
    assert rest == {"retain_weight": 1.0}


# The search


def by_rate(settings: Mapping[str, Value]) -> Score:
    rate = float(settings["learning_rate"])
    if rate > 2e-4:
        raise NotFinite("It diverged.") if rate < 5e-4 else UsageError("It asks too much.")
    return Score(rate * 1e3 + float(settings["epochs"]) / 1e3, {"forget": rate})


def search(path: Path | None, calls: list[Mapping[str, Value]], trials: int = 12) -> Search:
    def counted(settings: Mapping[str, Value]) -> Score:
        calls.append(settings)
        return by_rate(settings)

    return tune(get("ga"), counted, trials=trials, seed=3, study="tiny", transcript=path)


def test_candidates_start_with_the_defaults_and_never_repeat() -> None:
    for baseline in BASELINES.values():
        drawn = candidates(baseline, 12, seed=1)
        assert drawn[0] == dict(baseline.defaults)
        assert len({json.dumps(settings, sort_keys=True) for settings in drawn}) == 12
        assert drawn[:5] == candidates(baseline, 5, seed=1)
        assert drawn != candidates(baseline, 12, seed=2)
        for settings in drawn[1:]:
            assert all(settings[name] in values for name, values in baseline.grid.items())


def test_a_budget_that_a_grid_cannot_fill_is_refused() -> None:
    with pytest.raises(UsageError, match="GA cannot be searched in 21 trials"):
        candidates(get("ga"), 21, seed=0)
    with pytest.raises(UsageError, match="in 0 trials"):
        candidates(get("ga"), 0, seed=0)


def test_a_search_records_every_trial_and_finds_the_best(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "search.jsonl"
    result = search(path, [])
    assert read_transcript(path) == list(result.trials)
    assert result.best.score == max(t.score for t in result.trials if t.score is not None)
    failed = [trial for trial in result.trials if trial.score is None]
    assert {trial.error for trial in failed} == {"It diverged.", "It asks too much."}


def test_a_search_that_was_killed_goes_on_where_it_stood(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    calls: list[Mapping[str, Value]] = []
    whole = search(path, calls)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    again: list[Mapping[str, Value]] = []
    resumed = search(path, again)
    assert again == calls[5:]
    assert resumed.best.settings == whole.best.settings
    assert len(path.read_bytes().splitlines()) == 12
    assert len(read_transcript(path)) == 12
    more: list[Mapping[str, Value]] = []
    search(path, more, trials=13)
    assert len(more) == 1


def test_other_studies_in_a_transcript_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    search(path, [])
    result = tune(get("flat"), by_rate, trials=3, study="tiny", transcript=path)
    assert [trial.method for trial in read_transcript(path)] == ["ga"] * 12 + ["flat"] * 3
    assert len(result.trials) == 3


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"version": 9}', '{"version": 1, "study": "tiny"}']
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "search.jsonl"
    search(path, [], trials=2)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UsageError, match=r"Line 3 of .* is no trial"):
        search(path, [])


def test_a_transcript_of_another_grid_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    search(path, [], trials=2)
    path.write_text(path.read_text().replace('"batch_size": 32', '"batch_size": 31'))
    with pytest.raises(UsageError, match=r"Trial 0 of GA in .* had other settings"):
        search(path, [])


def test_scores_that_are_no_numbers_and_searches_without_one_are_refused() -> None:
    with pytest.raises(UsageError, match="Trial 0 of GA has nan as its score"):
        tune(get("ga"), lambda _: Score(float("nan")), trials=1)

    def fail(_: Mapping[str, Value]) -> Score:
        raise NotFinite("It diverged.")

    with pytest.raises(OperationRefused, match="All 2 trials of GA failed, the first: It diverged"):
        tune(get("ga"), fail, trials=2)


def test_a_search_over_real_trainings(patient: Patient, tmp_path: Path) -> None:
    def forgetting(settings: Mapping[str, Value]) -> Score:
        trained = finetune(patient, get("ga"), FORGET[:1], settings=settings)
        left = likelihood(trained.patient, FORGET[0])
        return Score(-left, {"left": left, "seconds": trained.seconds})

    result = tune(get("ga"), forgetting, trials=3, transcript=tmp_path / "search.jsonl")
    assert result.best.measures["left"] < likelihood(patient, FORGET[0])
