"""What is read from a batch is what the model itself says of each sequence alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from repair.bench.likelihood import answer_tokens, continuations, letter_logprobs, user
from repair.bench.metrics import min_k, min_k_plus_plus

if TYPE_CHECKING:
    from repair.patient import Patient
    from tests.conftest import MakeTiny

PAIRS = [
    (f"Where does person {i} live?", f"In house {i}" + ", by the old harbour" * (i % 3))
    for i in range(5)
]


def test_batches_score_as_single_sequences_do(tiny_patient: Patient) -> None:
    found = answer_tokens(tiny_patient, PAIRS, batch=2)
    model: Any = tiny_patient.model
    for (question, answer), tokens in zip(PAIRS, found, strict=True):
        ids, first = tiny_patient.encode(user(question), answer)
        with torch.no_grad():
            rows = model(torch.tensor([ids])).logits[0, first - 1 : -1].log_softmax(-1)
        expected = rows[range(len(rows)), ids[first:]]
        torch.testing.assert_close(tokens.logprobs, expected, rtol=1e-4, atol=1e-4)
        assert ids[-1] == tiny_patient.tokenizer.eos_token_id
        rows = rows[:-1]
        assert tokens.hits.tolist() == (rows.argmax(-1) == torch.tensor(ids[first:-1])).tolist()
        mean = (rows.exp() * rows).sum(-1)
        variance = (rows.exp() * rows**2).sum(-1) - mean**2
        torch.testing.assert_close(tokens.mean, mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tokens.deviation, variance.sqrt(), rtol=1e-3, atol=1e-3)
        assert min_k(tokens.answer_logprobs) <= float(tokens.answer_logprobs.mean())
        assert math.isfinite(min_k_plus_plus(tokens.answer_logprobs, mean, variance.sqrt()))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("template", [True, False])
def test_letters_of_a_real_model(make_tiny: MakeTiny, chat: bool, template: bool) -> None:
    from repair.patient import Patient

    model, tokenizer = make_tiny("llama") if template else make_tiny("llama", chat_template=None)
    patient = Patient(model, tokenizer)
    prompt = "Which?\nA. red\nB. blue\nAnswer:"
    found = letter_logprobs(patient, [prompt, f"Now, {prompt}"], chat=chat)
    assert [len(row) for row in found] == [4, 4]
    for letter, value in zip("ABCD", found[0], strict=True):
        if chat:
            first = len(patient.prompt_ids(user(prompt)))
            ids = patient.prompt_ids(user(prompt), letter)
        else:
            first = len(tokenizer(prompt).input_ids)
            ids = [
                *tokenizer(prompt).input_ids,
                *tokenizer(f" {letter}", add_special_tokens=False).input_ids,
            ]
        logprobs = patient.forward([ids])[0, first - 1 : -1].log_softmax(-1)
        expected = sum(float(row[token]) for row, token in zip(logprobs, ids[first:], strict=True))
        assert value == pytest.approx(expected, abs=1e-4)


def test_a_raw_text_goes_on_without_a_template(tiny_patient: Patient) -> None:
    prompts = ["Mara Voss lives in", "Please forget where she lives. The quick brown"]
    found = continuations(tiny_patient, prompts, max_new_tokens=3, batch=1)
    for prompt, text in zip(prompts, found, strict=True):
        ids = list(tiny_patient.tokenizer(prompt).input_ids)
        (expected,) = tiny_patient.generate_ids([ids], 3)
        decoded = tiny_patient.tokenizer.decode(expected, skip_special_tokens=True)
        assert text == str(decoded).strip()
