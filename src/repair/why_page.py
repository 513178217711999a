"""The page of what an edit did, from the record of `repair.why.explained`; knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from repair.drawing import bars, cards, document, section, table


def page(record: Mapping[str, Any]) -> str:
    """One HTML page that stands alone."""
    edited = [layer for layer in record["layers"] if layer["edited"]]
    answer = record["answer"]
    count = record["facts"] if isinstance(record["facts"], int) else len(record["facts"])
    numbers: list[tuple[object, str]] = [
        (count, "questions behind it"),
        (len(edited), "layers changed"),
        (max((layer["rank"] for layer in edited), default=0), "rank"),
    ]
    if answer:
        numbers.append((f"{answer['before']:.2f}", "chance of an answer’s token, before"))
        numbers.append((f"{answer['after']:.2f}", "chance of an answer’s token, after"))
    parts = [cards(numbers), _quoted(record), _touched(edited)]
    if answer:
        parts += [_lens(record), _patched(record), _refusal(record)]
    parts.append(_nearby(record))
    lead = "What the edit changed inside the model, and what else lay near enough to be at risk."
    return document(
        f"Edit {record['edit']}",
        f"Why · {record['kind']} · {record['method']}",
        lead,
        "".join(parts),
        "Made by RePAIR, from the model with and without the edit. "
        + (
            "It quotes what was forgotten: keep it as you would keep that."
            if _reveals(record)
            else "It quotes nothing of what was forgotten."
        ),
    )


def _reveals(record: Mapping[str, Any]) -> bool:
    return not isinstance(record["facts"], int)


def _quoted(record: Mapping[str, Any]) -> str:
    if not _reveals(record):
        return ""
    said = "".join(
        f'<div class="fact"><div class="q">{escape(fact["question"])}</div>'
        f"<div>{escape(fact['answer'])}</div></div>"
        for fact in record["facts"]
    )
    return section("What was forgotten", "Asked of the model without this edit.", said)


def _touched(edited: list[Mapping[str, Any]]) -> str:
    lead = (
        "The size of the change of each layer beside the layer itself, and the neurons that it "
        "reads most, with their share of it."
    )
    rows = [
        (
            f"layer {layer['layer']}",
            layer.get("relative", layer["norm"]),
            f"{layer.get('relative', layer['norm']):.3f} · neurons "
            + ", ".join(f"{n['neuron']} ({n['share']:.0%})" for n in layer["neurons"][:3]),
        )
        for layer in edited
    ]
    return section("Where it acts", lead, bars(rows))


def _lens(record: Mapping[str, Any]) -> str:
    rows = []
    for layer in record["layers"]:
        for moment in ("before", "after"):
            seen = layer["lens"][moment]
            told = f"{seen['probability']:.2f} · rank {seen['rank']}"
            rows.append((f"layer {layer['layer']} {moment}", seen["probability"], told))
    lead = (
        "Logit lens: how likely the answer's first token is, and its place among all tokens, "
        "if the model had to speak after each layer."
    )
    return section("The answer's path", lead, bars(rows, most=1.0))


def _patched(record: Mapping[str, Any]) -> str:
    answer = record["answer"]
    rows = [("edited, no layer patched", answer["after"], f"{answer['after']:.2f}")]
    rows += [
        (f"layer {layer['layer']} as it was", layer["patched"], f"{layer['patched']:.2f}")
        for layer in record["layers"]
    ]
    rows.append(("all layers as they were", answer["before"], f"{answer['before']:.2f}"))
    lead = (
        "Patching: the mean probability of the answer's tokens when one layer of the edited "
        "model computes what it did before. A long bar is a layer whose change matters."
    )
    return section("Which layer it hangs on", lead, bars(rows, most=1.0))


def _refusal(record: Mapping[str, Any]) -> str:
    rows = [
        (f"layer {n['layer']}", n["towards_refusal"], f"{n['towards_refusal']:+.2f}")
        for n in record["layers"]
    ]
    lead = (
        "The cosine between where the answer would begin moved to, and the way to this model's "
        "own “I don’t know”: 1 is straight towards it, 0 across."
    )
    return section("Towards the refusal", lead, bars(rows, most=1.0))


def _nearby(record: Mapping[str, Any]) -> str:
    near = record["nearby"]
    lead = (
        "Other facts whose keys come nearest to the forgotten ones (cosine), how far the edit "
        "moves them beside what they are, and how much of the answer is still given."
    )
    if not near:
        return section("What lay near", lead, "<p>Nothing was found beside it.</p>")
    rows = [
        (
            n.get("question", n["what"]),
            *(f"{n[part]:.2f}" for part in ("nearness", "moved", "kept")),
        )
        for n in near
    ]
    return section("What lay near", lead, table(("fact", "cosine", "moved", "kept"), rows))
