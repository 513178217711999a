"""The files of the grid: one JSON object a cell, written whole or not at all, read with checks.

Knows the schema's version and its fields (docs/evaluation.md); measures nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repair.bench.grid.cells import Cell
from repair.errors import DiskFull, UsageError

SCHEMA = 2
FIELDS = ("schema", "command", "cell", "model", "versions", "threads", "counts", "seconds")
_BROKEN = "Delete it and run it again."
_OLDER = "Measure it again in another folder, or read it with the version that wrote it."


def write_whole(path: Path, record: Mapping[str, Any] | str) -> None:
    """Put a record, or a text, in the place of a file at once; on the disk when this returns.

    Raises:
        DiskFull: it cannot be written; the file is then what it was before.
    """
    text = record if isinstance(record, str) else json.dumps(record, indent=1, ensure_ascii=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DiskFull(
            f"The result {path} cannot be written ({error.strerror}).", "Free space, or use --out."
        ) from error


def read_result(path: Path) -> dict[str, Any]:
    """One result of this version.

    Raises:
        UsageError: no such file, a line that is not JSON, another version, a missing field.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no result {path}.") from error
    except OSError as error:
        raise UsageError(f"The result {path} cannot be read ({error.strerror}).") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON.", _BROKEN) from error
    except ValueError as error:
        raise UsageError(f"{path}: not UTF-8 text.", _BROKEN) from error
    if not isinstance(record, dict):
        raise UsageError(f"{path}:1: not a JSON object.", _BROKEN)
    if record.get("schema") != SCHEMA:
        raise UsageError(
            f"{path} has the schema {record.get('schema')}, and this version reads {SCHEMA}.",
            _OLDER,
        )
    missing = [name for name in FIELDS if name not in record]
    if missing:
        raise UsageError(f'{path}: the field "{missing[0]}" is missing.', _OLDER)
    return record


def read_folder(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Every cell's result below a folder, by name; other JSON files there are passed over.

    Raises:
        UsageError: no such folder, none in it, or what ``read_result`` raises.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.", "Run `repair bench run` first.")
    paths = sorted(p for stem in ("run-", "attack-") for p in folder.rglob(f"{stem}*.json"))
    found = [read_result(path) for path in paths if not path.name.startswith(".")]
    found = [result for result in found if kind in (None, result["cell"]["kind"])]
    if not found:
        raise UsageError(f"The folder {folder} has no results.", "Run `repair bench run` first.")
    return found


def finished(path: Path, cell: Cell) -> dict[str, Any] | None:
    """The result of exactly this cell, or None where it is still to be measured.

    A file of another cell, such as one measured on other weights, does not count. Which oracle
    stood beside it does, for the oracle's own hash is in its result.

    Raises:
        UsageError: the file is broken or of another version.
    """
    if not path.exists():
        return None
    result = read_result(path)
    return result if result["cell"] == cell.to_json() else None
