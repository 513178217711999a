"""Loading, asking and editing a patient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from repair.errors import (
    NotFinite,
    UsageError,
)
from repair.patient import Patient
from repair.types import Edit, LowRankUpdate, Message
from tests.conftest import DENSE, build_tiny
from tests.test_adapter import update

if TYPE_CHECKING:
    from tests.conftest import MakeTiny

ASK: list[Message] = [{"role": "user", "content": "Where does Mara Voss live?"}]
GREET: list[Message] = [{"role": "user", "content": "Hi"}]
WITH_SYSTEM: list[Message] = [{"role": "system", "content": "Be brief."}, *ASK]
IDS = [[1, 7, 8, 9], [1, 20]]
NO_SYSTEM_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('No system') }}"
    "{% endif %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def state(patient: Patient) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in patient.model.state_dict().items()}


def changed(patient: Patient, before: dict[str, torch.Tensor]) -> set[str]:
    now = patient.model.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}


# Editing


@pytest.mark.parametrize("architecture", DENSE)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_apply_and_undo_to_the_bit(make_tiny: MakeTiny, architecture: str, dtype: str) -> None:
    patient = Patient(*make_tiny(architecture, dtype=dtype))
    before, logits = state(patient), patient.forward(IDS)
    layer = patient.layers[1]
    edit = Edit(1, (update(patient, 1, 2),))
    patient.apply([edit])
    assert changed(patient, before) == {f"{layer.name}.weight"}
    expected = before[f"{layer.name}.weight"].to(torch.float32, copy=True)
    delta = edit.updates[0].b @ edit.updates[0].a
    expected += delta.T if layer.transposed else delta
    now = patient.model.state_dict()[f"{layer.name}.weight"]
    assert torch.allclose(now.float(), expected, rtol=1e-2 if dtype != "float32" else 1e-5)
    assert not torch.equal(patient.forward(IDS), logits)
    patient.apply([])
    assert changed(patient, before) == set()


def test_any_order_of_edits_ends_in_the_same_bits(tiny_patient: Patient) -> None:
    edits = [
        Edit(i, (update(tiny_patient, 0, 2, i), update(tiny_patient, 1, 3, -i))) for i in (1, 2, 3)
    ]
    tiny_patient.apply([edits[0], edits[2]])
    wanted = state(tiny_patient)
    tiny_patient.apply(edits)
    tiny_patient.apply([edits[1]])
    tiny_patient.apply([])
    tiny_patient.apply([edits[2], edits[0]])
    assert changed(tiny_patient, wanted) == set()
    assert [edit.id for edit in tiny_patient.active] == [1, 3]


def test_only_changed_layers_are_touched(tiny_patient: Patient) -> None:
    """A value put into an unchanged layer by hand is still there after another edit."""
    first = Edit(1, (update(tiny_patient, 0, 2),))
    tiny_patient.apply([first])
    tiny_patient.layers[0].weight[0, 0] = 7.0
    tiny_patient.apply([first, Edit(2, (update(tiny_patient, 1, 2),))])
    assert tiny_patient.layers[0].weight[0, 0] == 7.0


def test_many_edits_add_one_product_and_end_in_the_same_bits(
    tiny_patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    edits = [Edit(i, (update(tiny_patient, 0, 2, i),)) for i in range(1, 31)]
    tiny_patient.apply(edits[:29])
    products: list[int] = []
    plain = torch.Tensor.addmm_

    def counted(self: torch.Tensor, *given: Any) -> torch.Tensor:
        products.append(1)
        return plain(self, *given)

    monkeypatch.setattr(torch.Tensor, "addmm_", counted)
    before = state(tiny_patient)
    for _ in range(2):
        with tiny_patient.trial(edits[29].updates):
            tried = state(tiny_patient)
        assert changed(tiny_patient, before) == set()
    assert len(products) == 2, "each trial adds its own product and no other"
    tiny_patient.apply(edits)
    assert changed(tiny_patient, tried) == set()
    fresh = Patient(*build_tiny("llama"))
    fresh.apply(edits)
    assert changed(fresh, tried) == set()
    tiny_patient.apply(edits[1:])
    fresh.apply(edits[1:])
    assert changed(fresh, state(tiny_patient)) == set()
    tiny_patient.apply([])
    assert not tiny_patient.active


@pytest.mark.parametrize("architecture", ["gpt2", "falcon"])
def test_tied_embeddings_stay_tied(make_tiny: MakeTiny, architecture: str) -> None:
    patient = Patient(*make_tiny(architecture))
    model: Any = patient.model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    patient.apply([Edit(1, (update(patient, 0, 2),))])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_result_that_is_not_finite_changes_nothing(tiny_patient: Patient, value: float) -> None:
    kept = Edit(1, (update(tiny_patient, 0, 2), update(tiny_patient, 1, 2)))
    tiny_patient.apply([kept])
    before = state(tiny_patient)
    bad = LowRankUpdate(1, torch.full((32, 2), value), torch.full((2, 48), value))
    with pytest.raises(NotFinite, match="layer 1"):
        tiny_patient.apply([kept, Edit(2, (update(tiny_patient, 0, 1, 5), bad))])
    assert changed(tiny_patient, before) == set()
    assert tiny_patient.active == (kept,)


def test_wrong_shapes_layers_and_ids_are_refused(tiny_patient: Patient) -> None:
    good = update(tiny_patient, 0, 2)
    before = state(tiny_patient)
    with pytest.raises(ValueError, match=r"needs b \(32, n\) and a \(n, 48\)"):
        tiny_patient.apply([Edit(1, (good, LowRankUpdate(1, good.a, good.b)))])
    with pytest.raises(ValueError, match="no output of layer 9"):
        tiny_patient.apply([Edit(1, (good, LowRankUpdate(9, good.b, good.a)))])
    with pytest.raises(ValueError, match=r"needs b \(48, n\) and a \(n, 32\)"):
        tiny_patient.apply([Edit(1, (LowRankUpdate(1, good.b, good.a, part="gate"),))])
    with pytest.raises(ValueError, match="twice"):
        tiny_patient.apply([Edit(1, (good,)), Edit(1, (good,))])
    assert changed(tiny_patient, before) == set()


def test_a_trial_leaves_no_trace(tiny_patient: Patient) -> None:
    kept = Edit(4, (update(tiny_patient, 0, 2),))
    tiny_patient.apply([kept])
    before = state(tiny_patient)
    tentative = (update(tiny_patient, 0, 1, 8), update(tiny_patient, 1, 1, 9))
    with tiny_patient.trial(tentative):
        assert len(changed(tiny_patient, before)) == 2
        with tiny_patient.trial(tentative):
            assert [edit.id for edit in tiny_patient.active] == [4, 5, 6]
        assert [edit.id for edit in tiny_patient.active] == [4, 5]
        within = state(tiny_patient)
    assert changed(tiny_patient, before) == set()
    with pytest.raises(RuntimeError, match="inside"):
        _fail_within(tiny_patient, tentative)
    assert changed(tiny_patient, before) == set()
    with tiny_patient.trial(tentative):
        tiny_patient.apply([kept, Edit(5, tentative)])
    assert changed(tiny_patient, within) == set()


def _fail_within(patient: Patient, updates: tuple[LowRankUpdate, ...]) -> None:
    with patient.trial(updates):
        raise RuntimeError("inside")


# Asking


@pytest.mark.parametrize("architecture", DENSE)
def test_a_batch_answers_like_single_questions(make_tiny: MakeTiny, architecture: str) -> None:
    patient = Patient(*make_tiny(architecture))
    batch, prefixes = [ASK, GREET, WITH_SYSTEM], ["", "I am", "Mara"]
    single = [
        patient.reply(messages, prefix=prefix, max_new_tokens=8)
        for messages, prefix in zip(batch, prefixes, strict=True)
    ]
    assert patient.replies(batch, prefixes=prefixes, max_new_tokens=8) == single
    assert len(set(single)) == 3
    assert patient.replies([]) == []


def test_a_reply_is_the_argmax_path(tiny_patient: Patient) -> None:
    ids = tiny_patient.prompt_ids(ASK, "Mara")
    start = len(ids)
    for _ in range(6):
        ids.append(int(tiny_patient.forward([ids])[0, -1].argmax()))
    text = tiny_patient.tokenizer.decode(ids[start:], skip_special_tokens=True)
    assert tiny_patient.reply(ASK, prefix="Mara", max_new_tokens=6) == str(text).strip()


def test_a_checkpoint_s_sampling_advice_changes_nothing(tiny_patient: Patient) -> None:
    wanted = tiny_patient.reply(ASK, max_new_tokens=12)
    advice: Any = tiny_patient.model.generation_config
    advice.update(do_sample=True, temperature=9.0, top_k=3, repetition_penalty=5.0, min_length=99)
    assert tiny_patient.reply(ASK, max_new_tokens=12) == wanted
    assert tiny_patient.model.generation_config is advice


def test_the_stream_is_the_reply(tiny_patient: Patient) -> None:
    pieces = list(tiny_patient.stream(ASK, max_new_tokens=12))
    assert "".join(pieces).strip() == tiny_patient.reply(ASK, max_new_tokens=12)
    for _ in tiny_patient.stream(ASK, max_new_tokens=200):
        break
    with pytest.raises(UsageError, match="empty"):
        next(tiny_patient.stream([]))


def test_samples_follow_the_seed(tiny_patient: Patient) -> None:
    random = torch.random.get_rng_state()
    one = tiny_patient.sample(ASK, 3, seed=1, max_new_tokens=8)
    assert one == tiny_patient.sample(ASK, 3, seed=1, max_new_tokens=8)
    assert one != tiny_patient.sample(ASK, 3, seed=2, max_new_tokens=8)
    assert len(set(one)) == 3
    assert torch.equal(torch.random.get_rng_state(), random)
    cold = tiny_patient.sample(ASK, 1, temperature=1e-4, max_new_tokens=8)
    assert cold == [tiny_patient.reply(ASK, max_new_tokens=8)]
    with pytest.raises(UsageError):
        tiny_patient.sample(ASK, 0)


def test_encode_puts_the_answer_after_the_prompt(tiny_patient: Patient) -> None:
    ids, start = tiny_patient.encode(ASK, "In Ellbridge.")
    tokenizer = tiny_patient.tokenizer
    assert ids[:start] == tiny_patient.prompt_ids(ASK)
    assert tokenizer.decode(ids[start:-1]) == "In Ellbridge."
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|end|>")
    assert tiny_patient.prompt_ids(ASK, "In Ell")[:start] == ids[:start]
    assert str(tokenizer.decode(ids[:start])).endswith("live?<|end|>\n<|assistant|>")


def test_forward_ignores_its_padding(tiny_patient: Patient) -> None:
    both, short = tiny_patient.forward(IDS), tiny_patient.forward([IDS[1]])
    assert both.shape == (2, 4, 300)
    assert both.dtype == torch.float32
    assert torch.allclose(both[1, :2], short[0], atol=1e-5)
    with pytest.raises(ValueError, match="at least one token"):
        tiny_patient.forward([[1], []])


def test_too_long_a_conversation_is_one_sentence(tiny_patient: Patient) -> None:
    long: list[Message] = [{"role": "user", "content": "word " * 500}]
    with pytest.raises(UsageError, match="reads at most 256"):
        tiny_patient.reply(long)


def test_without_a_chat_template_a_chat_is_plain_text(make_tiny: MakeTiny) -> None:
    patient = Patient(*make_tiny("llama", chat_template=None))
    assert not patient.has_chat_template
    chat: list[Message] = [*ASK, {"role": "assistant", "content": "No."}, *GREET]
    text = patient.tokenizer.decode(patient.prompt_ids(chat, "Hello"))
    assert text == ("User: Where does Mara Voss live?\nAssistant: No.\nUser: Hi\nAssistant: Hello")
    ids, start = patient.encode(GREET, "Hello")
    assert patient.tokenizer.decode(ids[start:]) == " Hello<|end|>"
    assert isinstance(patient.reply(ASK, max_new_tokens=4), str)


def test_a_template_without_system_role_gets_it_in_the_first_turn(make_tiny: MakeTiny) -> None:
    patient = Patient(*make_tiny("llama", chat_template=NO_SYSTEM_TEMPLATE))
    text = patient.tokenizer.decode(patient.prompt_ids(WITH_SYSTEM))
    assert text == "<|user|>Be brief.\n\nWhere does Mara Voss live?<|end|><|assistant|>"
    with pytest.raises(UsageError, match="No system"):
        patient.prompt_ids([*ASK, {"role": "system", "content": "x"}])
