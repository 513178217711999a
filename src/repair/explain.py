"""A repair plan as one HTML page that stands alone: what would change, where, at what price.

Knows a plan's data and how to draw it; knows no model. Everything is inside the page: no
script, no font, no picture from elsewhere. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from repair.drawing import document

_EYEBROW = "Repair plan · nothing has been changed"
_FOOTER = """Made by RePAIR. The numbers of the budget are limits; the measures come with the edit
itself, and an edit that breaks one is rolled back. This page quotes what would be forgotten:
keep it as you would keep that."""


def page(record: Mapping[str, Any]) -> str:
    """The page for a record of ``Session.plan``; without a plan it says that nothing is known.

    ``record`` may have ``tokens``, question → (of the prompt, of the answer), and
    ``distances``, layer → cosine distance.
    """
    plan = record.get("plan")
    targets = ", ".join(record.get("targets") or ()) or "this"
    if plan is None:
        lead = "The model was asked in all its wordings and gave no answer that it agrees on."
        title = f"Nothing to change: {targets}"
        return document(title, _EYEBROW, lead, _reading(record), _FOOTER)
    verb = "Correct" if plan["operation"] == "correct" else "Forget"
    parts = (
        _counts(plan),
        _facts(plan, record.get("tokens") or {}),
        _layers(plan, record.get("distances") or {}),
        _neighbours(plan),
        _budget(plan),
        _reading(record),
    )
    return document(f"{verb}: {targets}", _EYEBROW, _lead(plan), "".join(parts), _FOOTER)


def _lead(plan: Mapping[str, Any]) -> str:
    facts, kept = len(plan["facts"]), len(plan["neighbours"])
    many = "one fact" if facts == 1 else f"{facts} facts"
    subjects = sorted({fact["subject"] for fact in plan["facts"] if fact["subject"]})
    about = f" about {', '.join(subjects[:4])}" if subjects else ""
    return (
        f"The model knows {many}{about}. The edit moves what it computes at the tokens of the "
        f"answer towards its own “I don’t know”, holds {kept} neighbouring facts in place, and "
        f"is kept only if every limit below holds."
    )


def _counts(plan: Mapping[str, Any]) -> str:
    wordings = sum(1 + len(fact["rewordings"]) for fact in plan["facts"])
    numbers = (
        (len(plan["facts"]), "facts to change"),
        (wordings, "wordings in the edit"),
        (sum(len(fact["probes"]) for fact in plan["facts"]), "wordings only to check"),
        (len(plan["neighbours"]), "neighbours kept"),
        (len(plan["retain"]), "unrelated answers watched"),
    )
    cards = "".join(f"<div><b>{n}</b><span>{text}</span></div>" for n, text in numbers)
    return f'<div class="cards">{cards}</div>'


def _facts(plan: Mapping[str, Any], tokens: Mapping[str, Any]) -> str:
    return (
        "<section><h2>What would change</h2><p class='lead'>Grey tokens are the question, red "
        "ones the answer: the edit acts where the model is about to say a red one.</p>"
        + "".join(_fact(fact, tokens.get(fact["question"])) for fact in plan["facts"][:24])
        + _more(len(plan["facts"]) - 24)
        + "</section>"
    )


def _fact(fact: Mapping[str, Any], tokens: Sequence[Sequence[str]] | None) -> str:
    asked, said = tokens or ([fact["question"]], [fact["answer"]])
    shown = "".join(f"<i>{escape(_visible(t))}</i>" for t in asked)
    shown += "".join(f'<i class="a">{escape(_visible(t))}</i>' for t in said)
    then = fact["replacement"] or "I don’t know (in its own words)"
    others = "".join(f"<li>{escape(w)}</li>" for w in (*fact["rewordings"], *fact["probes"]))
    more = (
        f"<details><summary>{len(fact['rewordings']) + len(fact['probes'])} more wordings"
        f"</summary><ul>{others}</ul></details>"
        if others
        else ""
    )
    return (
        f'<div class="fact"><div class="q">{escape(fact["question"])}</div>'
        f'<div class="tokens">{shown}</div>'
        f'<div>today: {escape(fact["answer"])}<br><span class="then">then: {escape(then)}</span>'
        f"</div>{more}</div>"
    )


def _visible(token: str) -> str:
    return token.replace("\n", "⏎")


def _layers(plan: Mapping[str, Any], distances: Mapping[int, float]) -> str:
    edited = set(plan["layers"])
    if distances:
        most = max(*distances.values(), 1e-9)
        rows = "".join(
            f'<span class="{"on" if layer in edited else ""}">layer {layer}</span>'
            f'<span class="track"><s style="width:{100 * value / most:.0f}%"></s></span>'
            f"<span>{value:.2f} {_chip(layer in edited)}</span>"
            for layer, value in sorted(distances.items())
        )
        best = max(distances, key=lambda layer: distances[layer])
        text = (
            "Cosine distance between the model’s output for the known subject and for a stranger "
            f"whom it refuses to answer for, at the end of the question. It is largest in layer "
            f"{best}. "
        )
        picture = f'<div class="bars">{rows}</div>'
    else:
        text, picture = "No stranger was refused, so there was nothing to measure against. ", ""
    strengths = ", ".join(f"{value:g}" for value in plan["strengths"])
    text += (
        f"The edit goes into {len(edited)} of the layers at a low rank (at most {plan['rank']}); "
        f"strengths tried, the weakest first: {strengths}."
    )
    return f"<section><h2>Where it would change</h2><p class='lead'>{text}</p>{picture}</section>"


def _chip(edited: bool) -> str:
    return '<i class="chip">edited</i>' if edited else '<i class="chip no">left</i>'


def _neighbours(plan: Mapping[str, Any]) -> str:
    kept = plan["neighbours"]
    items = "".join(
        f"<li>{escape(n['question'])} <em>{escape(n['answer'])}</em></li>" for n in kept[:40]
    )
    body = f'<ul class="keep">{items}</ul>{_more(len(kept) - 40)}' if kept else "<p>None known.</p>"
    return (
        "<section><h2>What must stay</h2><p class='lead'>Everything else that the model says "
        f"about the same subjects. It stands in the edit with its own answers.</p>{body}</section>"
    )


def _more(count: int) -> str:
    return f"<p class='lead'>… and {count} more.</p>" if count > 0 else ""


def _budget(plan: Mapping[str, Any]) -> str:
    budget = plan["budget"]
    rows = (
        ("Recall left of what is forgotten, at most", f"{budget['forget']:.0%}"),
        ("Of the rest of an answer whose beginning is given, at most", f"{budget['prefix']:.0%}"),
        ("Neighbours kept, at least", f"{budget['neighbours']:.0%}"),
        ("Unrelated answers kept, at least", f"{budget['retain']:.0%}"),
        ("Divergence from the untouched model, at most", f"{budget['kl']:g} nats a token"),
    )
    table = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows)
    return f"<section><h2>What it may cost</h2><table>{table}</table></section>"


def _reading(record: Mapping[str, Any]) -> str:
    return (
        "<section><h2>How the request was read</h2><p>"
        f"Intent <b>{escape(str(record.get('intent')))}</b> with a confidence of "
        f"{float(record.get('confidence') or 0):.2f}.</p></section>"
    )
