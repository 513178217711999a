"""The lines that keep the code small: file and function length, docstrings, narrow excepts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(
    path for folder in ("src", "scripts", "tests") for path in (ROOT / folder).rglob("*.py")
)
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_keeps_the_house_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    faults = [*_length(text), *_functions(tree), *_excepts(tree)]
    if path.is_relative_to(ROOT / "src") and not ast.get_docstring(tree):
        faults.append("has no docstring that says what it knows")
    assert not faults, f"{_name(path)}: " + "; ".join(faults)


def _length(text: str) -> Iterator[str]:
    lines = text.count("\n")
    if lines > MOST_LINES:
        yield f"{lines} lines, {MOST_LINES} are allowed"


def _functions(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield f"{node.name} has {lines} lines, {MOST_LINES_OF_A_FUNCTION} are allowed"


def _excepts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.id if isinstance(node.type, ast.Name) else None
            tidies_up = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if not tidies_up and (node.type is None or caught in ("Exception", "BaseException")):
                yield f"line {node.lineno} catches everything"
