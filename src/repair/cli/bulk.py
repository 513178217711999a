"""``repair forget --from FILE``: many requests one after the other, with a report of each line.

Knows files and their lines; the operations are the session's. The report is written line by
line, so a run that was stopped goes on after the last line it has. It names lines by number
and never repeats what was to be forgotten.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from repair.errors import DiskFull, EnvironmentProblem, RepairError, UsageError

if TYPE_CHECKING:
    from repair.joint import Fleet
    from repair.session import Session
    from repair.types import Outcome

COLUMNS = ("line", "status", "edit", "recall_before", "recall_after", "seconds", "reason")
_NAMES = ("request", "text")


def read_requests(path: Path) -> list[tuple[int, str]]:
    """Line number and request of each row; blank ones are passed over.

    The file has a column named request or text, or its first column is taken.

    Raises:
        UsageError: no such file, or it is not UTF-8 text.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"The requests {path} cannot be read ({error}).", "Mend it.") from error
    column = 0
    if rows:
        header = [name.strip().lower() for name in rows[0][1]]
        named = [header.index(name) for name in _NAMES if name in header]
        if named:
            column, rows = named[0], rows[1:]
    cells = [(line, row[column].strip()) for line, row in rows if len(row) > column]
    return [(line, text) for line, text in cells if text]


class Report:
    """The file beside the requests that says what became of each line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = self._read()

    def _read(self) -> dict[int, str]:
        if not self.path.exists():
            return {}
        whole = self.path.read_bytes()
        # A last line that was cut short by a kill is taken away, and done again.
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            os.truncate(self.path, end)
        rows = csv.DictReader(whole[:end].decode("utf-8", "replace").splitlines())
        return {int(r["line"]): r["status"] for r in rows if (r["line"] or "").isdigit()}

    def add(self, record: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            DiskFull: it cannot be written.
        """
        fresh = not self.path.exists() or self.path.stat().st_size == 0
        try:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                _write(file, record, header=fresh)
        except OSError as error:
            raise DiskFull(
                f"The report {self.path} cannot be written ({error}).", "Free some space."
            ) from error
        self.done[record["line"]] = record["status"]


def _write(file: TextIO, record: dict[str, Any], *, header: bool) -> None:
    writer = csv.DictWriter(file, COLUMNS)
    if header:
        writer.writeheader()
    writer.writerow(record)


def forget_together(
    session: Session, requests: list[tuple[int, str]], report: Report, fleet: Fleet, **how: Any
) -> Iterator[dict[str, Any]]:
    """All that the report does not have yet in one operation; gives each line's record."""
    waiting = [(line, text) for line, text in requests if line not in report.done]
    if not waiting:
        return
    outcome = session.together([text for _, text in waiting], fleet, **how)
    for line, _ in waiting:
        record = {"line": line, **_record(outcome)}
        report.add(record)
        yield record


def _record(outcome: Outcome) -> dict[str, Any]:
    recall = outcome.measures.get("recall")
    return {
        "status": outcome.status,
        "edit": outcome.edit if outcome.edit is not None else "",
        "recall_before": recall.before if recall else "",
        "recall_after": recall.after if recall else "",
        "seconds": round(outcome.seconds.get("total", 0.0), 3),
        "reason": outcome.reason,
    }


def forget_all(
    session: Session, requests: list[tuple[int, str]], report: Report, **how: Any
) -> Iterator[dict[str, Any]]:
    """Carry out what the report does not have yet; gives each line's record as it is done."""
    for line, text in requests:
        if line in report.done:
            continue
        record: dict[str, Any] = {"line": line, "edit": "", "reason": ""}
        try:
            outcome = session.request(text, kind="forget", **how)
        except EnvironmentProblem:
            raise
        except RepairError as error:
            record |= {"status": "refused", "reason": error.message}
        else:
            record |= _record(outcome)
        report.add(record)
        yield record
