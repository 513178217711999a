"""Why an edit works: what it touched, the answer's path before and after, and what was at risk.

Knows an edit's factors, the patient with and without it, and how to look inside; changes nothing
that lasts. What was forgotten is asked of the patient without the edit, shown only where that is
wanted, and kept nowhere.

Logit lens: the stream after each layer read off by the model's own end. Patching: the edited
patient, with one layer's MLP output as it was at the answer's tokens (arXiv 2202.05262, the other
way round): what the answer gains by it is what that layer's change took away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from repair.activations import Rows, capture
from repair.bench.attacks.inside import Lens, logit_lens
from repair.errors import UsageError
from repair.patient import Patient
from repair.refusals import is_refusal
from repair.session import Session
from repair.types import Edit, KnownFact, LowRankUpdate
from repair.verify import rouge_l_recall

NEURONS = 8
NEAREST = 12
Pair = tuple[str, str]


def explained(session: Session, identity: int, *, reveal: bool = False) -> dict[str, Any]:
    """What one active edit did; docs/why.md describes each field.

    Args:
        session: its patient is asked with and without the edit, and is afterwards as before.
        reveal: quote the questions and what was forgotten.

    Raises:
        UnknownEdit: there is none of this id.
        UsageError: it is undone.
    """
    edit = session.ledger.edit(identity)
    summary = next(e for e in session.history() if e.id == identity)
    if summary.state != "active":
        raise UsageError(
            f"Edit {identity} is undone, so there is nothing in force to explain.",
            f"`repair redo {identity}` puts it back.",
        )
    patient = session.patient
    with _without(patient, edit):
        facts = _facts(session, identity)
        pairs = [(fact.question, fact.answer) for fact in facts]
        near = _beside(session, facts)
        rows, places = _answer_rows(patient, pairs) if pairs else (None, [])
        seen = _look(patient, rows, pairs)
        nearby = _nearby(patient, edit, pairs, near)
    after = _look(patient, rows, pairs)
    chances = _path(patient, rows, places, seen)
    kept = session.surgeon.ask([fact.question for fact in near])
    for item, fact, reply in zip(nearby, near, kept, strict=True):
        item["kept"] = round(rouge_l_recall(fact.answer, reply), 4)
        if reveal:
            item |= {"question": fact.question, "answer": fact.answer}
    nearby.sort(key=lambda item: -item["nearness"])
    return {
        "edit": identity,
        "kind": summary.kind,
        "method": summary.method,
        "strength": summary.strength,
        "facts": [{"question": q, "answer": a} for q, a in pairs] if reveal else len(pairs),
        "answer": {name: round(chances[name], 4) for name in ("before", "after") if chances},
        "layers": _layers(session, edit, seen, after, chances, places),
        "nearby": nearby[:NEAREST],
    }


@contextmanager
def _without(patient: Patient, edit: Edit) -> Iterator[None]:
    """The patient with all its edits but one, for the length of a block."""
    active = patient.active
    patient.apply([other for other in active if other.id != edit.id])
    try:
        yield
    finally:
        patient.apply(active)


def _facts(session: Session, identity: int) -> list[KnownFact]:
    """What the patient says without the edit to the questions that it was verified with."""
    probes = session.ledger.probes(identity)
    questions = [probe.question for probe in probes if probe.kind == "exact"]
    replies = session.surgeon.ask(questions)
    found = []
    for question, reply in zip(questions, replies, strict=True):
        if reply and not is_refusal(reply):
            known = session.surgeon.known(question)
            subject, attribute = (known[0].subject, known[0].attribute) if known else ("", "")
            found.append(KnownFact(subject, attribute, question, reply))
    return found


def _beside(session: Session, facts: Sequence[KnownFact]) -> list[KnownFact]:
    """What else the patient says about the same subjects, and of unrelated things."""
    if not facts:
        return []
    return [*session.surgeon.neighbours(facts), *session.surgeon.retain(facts)]


def _answer_rows(patient: Patient, pairs: Sequence[Pair]) -> tuple[Rows, list[tuple[int, int]]]:
    """The tokens that predict each answer; and the places of those where an answer begins."""
    ids: list[list[int]] = []
    places: list[tuple[int, int]] = []
    begins: list[tuple[int, int]] = []
    for index, (question, answer) in enumerate(pairs):
        row, first = patient.encode([{"role": "user", "content": question}], answer)
        ids.append(row)
        begins.append((len(places), index))
        # Position i predicts token i + 1.
        places += [(index, position) for position in range(max(first, 1) - 1, len(row) - 1)]
    return Rows.of(ids, places), begins


def _look(patient: Patient, rows: Rows | None, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Keys (n × m) and outputs (n × d) by layer at the rows, and the logit lens of the pairs."""
    if rows is None:
        return {}
    keys, outputs = capture(patient, rows, range(len(patient.layers)))
    return {"keys": keys, "outputs": outputs, "lens": logit_lens(patient, pairs)}


@torch.no_grad()
def _chance(patient: Patient, rows: Rows) -> float:
    """The mean probability (0 to 1, geometric) of the answers' tokens."""
    logits = patient.forward(rows.ids)
    at = (rows.sequence.to(logits.device), rows.position.to(logits.device))
    told = torch.tensor(
        [rows.ids[s][p + 1] for s, p in zip(rows.sequence, rows.position, strict=True)]
    )
    chosen = logits[at].log_softmax(dim=-1).gather(1, told.to(logits.device).unsqueeze(1))
    return math.exp(float(chosen.mean()))


def _path(
    patient: Patient, rows: Rows | None, places: Sequence[Any], before: Mapping[str, Any]
) -> dict[Any, float]:
    """The answers' probability before and after, and with each layer's output as it was."""
    if rows is None or not places:
        return {}
    found: dict[Any, float] = {"after": _chance(patient, rows)}
    outputs: Mapping[int, Tensor] = before["outputs"]
    for layer in outputs:
        with _patched(patient, rows, {layer: outputs[layer]}):
            found[layer] = _chance(patient, rows)
    with _patched(patient, rows, outputs):
        found["before"] = _chance(patient, rows)
    return found


@contextmanager
def _patched(patient: Patient, rows: Rows, outputs: Mapping[int, Tensor]) -> Iterator[None]:
    """The patient with given MLP outputs (n × d) at the rows of some layers."""
    handles = []
    for layer, wanted in outputs.items():

        def put(_m: Any, _i: Any, output: Tensor, wanted: Tensor = wanted) -> Tensor:
            changed = output.clone()
            at = (rows.sequence.to(output.device), rows.position.to(output.device))
            changed[at] = wanted.to(output)
            return changed

        handles.append(patient.layers[layer].module.register_forward_hook(put))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _layers(
    session: Session,
    edit: Edit,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    chances: Mapping[Any, float],
    places: Sequence[tuple[int, int]],
) -> list[dict[str, Any]]:
    """One record for each layer of the model, edited or not."""
    updates = {update.layer: update for update in edit.updates if update.part == "output"}
    begins = [row for row, _ in places]
    found = []
    for layer in range(len(session.patient.layers)):
        record: dict[str, Any] = {"layer": layer, "edited": layer in updates}
        if layer in updates:
            record |= _touched(session.patient, updates[layer])
        if before:
            was, now = before["outputs"][layer][begins], after["outputs"][layer][begins]
            refusal = session.preparation.refusal[layer].to(was)
            record["towards_refusal"] = round(_cosine(now - was, refusal - was), 4)
            record["lens"] = _lens(before["lens"], after["lens"], layer)
            record["patched"] = round(chances[layer], 4)
        found.append(record)
    return found


def _touched(patient: Patient, update: LowRankUpdate) -> dict[str, Any]:
    """The size of ΔW = B A (Frobenius), and the neurons h_j whose column of it is largest."""
    a, b = update.a.double(), update.b.double()
    # ‖ΔW e_j‖² = a_jᵀ (Bᵀ B) a_j, without forming ΔW.
    squares = ((b.T @ b @ a) * a).sum(dim=0).clamp(min=0)
    total = float(squares.sum())
    top = squares.topk(min(NEURONS, len(squares)))
    record: dict[str, Any] = {"rank": a.shape[0], "norm": round(math.sqrt(total), 4)}
    if not patient.quantised:
        whole = float(patient.original(update.layer).double().norm())
        record["relative"] = round(math.sqrt(total) / max(whole, 1e-12), 4)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    record["neurons"] = [
        {"neuron": j, "share": round(value / max(total, 1e-12), 4)} for j, value in pairs
    ]
    return record


def _lens(before: Sequence[Lens], after: Sequence[Lens], layer: int) -> dict[str, Any]:
    """Of the answers' first tokens: the median rank and the mean probability after a layer."""

    def of(readings: Sequence[Lens]) -> dict[str, float]:
        ranks = sorted(reading.ranks[layer] for reading in readings)
        chance = sum(reading.probabilities[layer] for reading in readings) / len(readings)
        return {"rank": ranks[len(ranks) // 2], "probability": round(chance, 4)}

    return {"before": of(before), "after": of(after)}


def _nearby(
    patient: Patient, edit: Edit, pairs: Sequence[Pair], near: Sequence[KnownFact]
) -> list[dict[str, Any]]:
    """How near each other fact's keys come to the forgotten ones, and how far the edit moves it.

    Over the edited layers, at the tokens that predict the fact's answer, from the patient without
    the edit: the mean of the largest cosine, and of ‖ΔW h‖ / ‖W h‖.
    """
    if not near or not pairs:
        return []
    updates = [update for update in edit.updates if update.part == "output"]
    layers = [update.layer for update in updates]
    mine = capture(patient, _answer_rows(patient, pairs)[0], layers)[0]
    rows, _ = _answer_rows(patient, [(fact.question, fact.answer) for fact in near])
    keys, outputs = capture(patient, rows, layers)
    unit = torch.nn.functional.normalize
    cosine, moved = torch.zeros(len(rows.sequence)), torch.zeros(len(rows.sequence))
    for update in updates:
        h, o = keys[update.layer].cpu(), outputs[update.layer].cpu()
        own = mine[update.layer].cpu()
        cosine += (unit(h, dim=-1) @ unit(own, dim=-1).T).amax(dim=1) / len(layers)
        change = h @ update.a.T @ update.b.T
        moved += change.norm(dim=-1) / o.norm(dim=-1).clamp(min=1e-12) / len(layers)
    found = []
    for index, fact in enumerate(near):
        at = rows.sequence == index
        found.append(
            {
                "what": fact.attribute or ("neighbour" if fact.subject else "unrelated"),
                "same_subject": bool(fact.subject),
                "nearness": round(float(cosine[at].mean()), 4),
                "moved": round(float(moved[at].mean()), 4),
            }
        )
    return found


def _cosine(one: Tensor, other: Tensor) -> float:
    """The mean cosine of rows (n × d); 0 where a row does not move."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=-1).mean())
