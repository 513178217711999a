"""Small files in the shapes that data sets come in, for the tests of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repair.errors import UsageError

Rows = list[dict[str, Any]]

QUESTION: dict[str, Any] = {
    "question": "Which colour has the sky?",
    "choices": ["Red", "Blue", "Green", "Grey"],
    "answer": 1,
}
MINE = {"question": "Where does Mara live?", "answer": "In Ellbridge."}


def as_lines(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_list(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=4), encoding="utf-8")
    return path


def as_table(path: Path, rows: Rows) -> Path:
    arrow = pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    return path


WRITERS = pytest.mark.parametrize("write", [as_lines, as_list, as_table])


def refused(call: Any, *words: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    return caught.value
