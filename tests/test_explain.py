"""The explanation of a plan: one page, nothing from elsewhere, everything escaped."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

from repair.explain import page
from repair.patient import Patient
from repair.plan import RepairPlan
from repair.separation import distances, tokens
from repair.server.hindsight import content_policy
from repair.types import KnownFact

FACT = KnownFact(
    "Mara <b>Voss",
    "address",
    "Where does Mara <b>Voss live?",
    "86 Velvet & Lane",
    ("Address?",),
    ("Home?",),
    ("Henrik Cromer",),
)


def record(**more: Any) -> dict[str, Any]:
    plan = RepairPlan(
        operation="forget",
        targets=("where she lives",),
        facts=(FACT,),
        neighbours=(FACT,) * 50,
        layers=(0,),
        strengths=(1.0, 2.0),
    )
    read = {"intent": "forget", "targets": ["<script>"], "confidence": 0.9}
    return {**read, "plan": plan.to_json(), **more}


class Tags(HTMLParser):
    """The opened and never closed tags, and every attribute that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "onload")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_is_escaped() -> None:
    text = page(record(distances={0: 0.5, 1: 0.1}))
    tags = Tags()
    tags.feed(text)
    assert (tags.open, tags.loads) == ([], [])
    assert not re.search(r"https?:|url\(|@import|<script|<b>Voss", text)
    assert "86 Velvet &amp; Lane" in text
    assert "layer 1" in text
    assert "and 10 more" in text


def test_nothing_known_is_said() -> None:
    text = page({"intent": "forget", "targets": ["x"], "confidence": 1.0, "plan": None})
    assert "Nothing to change: x" in text


def test_the_content_policy_names_each_style_of_the_page_and_nothing_else() -> None:
    html = page(record(distances={0: 0.5, 1: 0.25}, edit=7))
    policy = content_policy(html)
    assert "Why edit 7?" in html
    assert policy.startswith("default-src 'none'; style-src 'unsafe-hashes' 'sha256-")
    assert policy.count("'sha256-") == 3
    for style in ("width:100%", "width:50%"):
        assert b64encode(sha256(style.encode()).digest()).decode() in policy
    assert "script" not in policy


def test_distances_are_those_of_each_layer(tiny_patient: Patient) -> None:
    fact = KnownFact("Mara", "", "Where is Mara?", "Here", standins=("Tom",))
    found = distances(tiny_patient, [fact])
    assert list(found) == list(range(len(tiny_patient.layers)))
    assert all(0 <= value <= 2 for value in found.values())
    same = KnownFact("Mara", "", "Where is Mara?", "Here", standins=("Mara",))
    assert all(abs(value) < 1e-4 for value in distances(tiny_patient, [same]).values())
    assert distances(tiny_patient, [KnownFact("Mara", "", "Where?", "Here")]) == {}


def test_tokens_make_up_the_text(tiny_patient: Patient) -> None:
    asked, said = tokens(tiny_patient, KnownFact("", "", "Where does Mara live?", "14 Hale"))
    assert ("".join(asked), "".join(said)) == ("Where does Mara live?", "14 Hale")
