"""What the documents say by rote is what the code does: help texts, version, links, numbers."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import repair

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SCRIPT = "scripts/draw_pictures.py"
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)|<img[^>]+src=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """The functions of the script that fills the documents."""
    return runpy.run_path(str(ROOT / SCRIPT))


def _between(document: str, mark: str) -> str:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert text.count(f"<!-- {mark} -->") == text.count(f"<!-- /{mark} -->") == 1, document
    return text.partition(f"<!-- {mark} -->")[2].partition(f"<!-- /{mark} -->")[0].strip()


def test_the_help_of_every_command_is_in_the_document(script: dict[str, Any]) -> None:
    shown = _between("docs/command-line.md", "help")
    wanted = script["help_texts"]()
    assert "### repair forget" in wanted
    assert shown == wanted, f"run {SCRIPT} --only help"


def test_every_command_is_in_the_readme(script: dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in re.findall(r"^### (repair \w+)$", script["help_texts"](), re.MULTILINE):
        assert f"`{command}" in readme, f"README.md does not name {command}"


def test_the_newest_changelog_entry_is_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == repair.__version__


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_inside_the_repository_resolve(document: Path) -> None:
    for target in _links(document):
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{document.name} links to {target}, which is not there"
        assert linked.is_relative_to(ROOT), f"{document.name} links outside the repository"
        if anchor:
            assert anchor in _anchors(linked), f"{document.name}: {target} has no such heading"


def _links(document: Path) -> Iterator[str]:
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    for markdown, image in _LINK.findall(text):
        target = markdown or image
        if not re.match(r"[a-z]+:", target):
            yield target


def _anchors(document: Path) -> set[str]:
    headings = _HEADING.findall(_FENCE.sub("", document.read_text(encoding="utf-8")))
    kept = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings)
    return {re.sub(r"\s", "-", heading.strip()) for heading in kept}


def test_every_module_is_described_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "repair"
    modules = {path.stem for path in package.glob("*.py")}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    missing = sorted(m for m in modules if not m.startswith("__") and f"`{m}`" not in text)
    assert not missing, f"docs/architecture.md says nothing about {', '.join(missing)}"


def test_the_numbers_of_the_readme_are_those_measured(script: dict[str, Any]) -> None:
    shown = _between("README.md", "results")
    if not script["RESULTS"].is_file():
        assert "|" not in shown, "numbers without a measurement"
        return
    wanted = script["results_block"](script["read_results"](script["RESULTS"]))
    assert shown == wanted, f"run {SCRIPT} --only results"
    assert script["PICTURE"].is_file(), f"run {SCRIPT}"


def test_a_picture_is_drawn_and_is_the_same_for_the_same_numbers(
    script: dict[str, Any], tmp_path: Path
) -> None:
    low = {"mean": 0.02, "low": 0.0, "high": 0.1, "n": 30}
    high = {"mean": 0.97, "low": 0.9, "high": 1.0, "n": 30}
    change = {"before": high, "after": low}
    task = dict.fromkeys(script["MEASURES"], change)
    results = {"tasks": dict.fromkeys(script["TASKS"], task)}
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        script["draw"](results, picture)
    first, second = (picture.read_bytes() for picture in pictures)
    assert first.startswith(b"<?xml")
    assert first == second


def test_the_numbers_about_pictures_are_those_measured() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "draw_vision.py"))
    results = json.loads(script["RESULTS"].read_text(encoding="utf-8"))
    assert _between("docs/vision.md", "vision") == script["forgetting"](results)
    card = script["CARD"].relative_to(ROOT)
    assert _between(str(card), "scores") == script["known"](results)
    assert script["PICTURE"].is_file()
