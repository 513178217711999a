"""Many requests from a file, their report, and receipts that are checked without a ledger."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from repair import journal
from repair.cli.bulk import Report, forget_all, read_requests
from repair.errors import LedgerCorrupted, UsageError
from repair.session import Session
from tests.commands import repair
from tests.prepared import prepared, surgeon, tiny
from tests.test_session import ANSWER, QUESTION


@pytest.fixture
def session(tmp_path: Path) -> Session:
    patient = tiny()
    opened = Session(patient, home=prepared(tmp_path / "home", patient))
    opened.surgeon = surgeon(patient)
    return opened


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("request\na\nb\n", [(2, "a"), (3, "b")]),
        ("who,text\nx,a\ny,\n\nz,b\n", [(2, "a"), (5, "b")]),
        ("a\n\n  \nb", [(1, "a"), (4, "b")]),
        ('\ufeffrequest\n"two\nlines"\n', [(3, "two\nlines")]),
        ("", []),
        ("request\n", []),
    ],
)
def test_requests_are_read_with_their_lines(
    tmp_path: Path, content: str, found: list[tuple[int, str]]
) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(content, encoding="utf-8")
    assert read_requests(path) == found


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "x.csv", tmp_path / "missing.csv", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            read_requests(path)


def test_every_line_is_reported_once_also_after_a_stop(session: Session, tmp_path: Path) -> None:
    requests = [(2, "Forget where Mara Voss lives."), (3, " "), (4, "Forget where Tom Hale lives.")]
    path = tmp_path / "requests.report.csv"
    stopped = forget_all(session, requests, Report(path))
    assert next(stopped)["line"] == 2
    del stopped
    with path.open("a") as file:
        file.write("4,hea")
    rest = list(forget_all(session, requests, Report(path)))
    assert [record["line"] for record in rest] == [3, 4]
    assert rest[0]["status"] == "refused"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["line"] for row in rows] == ["2", "3", "4"]
    assert "Mara" not in path.read_text()
    assert list(forget_all(session, requests, Report(path))) == []


def test_the_command_goes_on_where_it_stopped(tmp_path: Path, repair_home: Path) -> None:
    file = tmp_path / "requests.csv"
    file.write_text("request\nPlease forget the address of Qwyx Zorblax Vun Tarr.\n")
    report = file.with_suffix(".report.csv")
    report.write_text(
        "line,status,edit,recall_before,recall_after,seconds,reason\n2,healed,1,1,0,2,\n"
    )
    done = repair(tmp_path, "forget", "--from", file, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statuses"] == {"healed": 1}
    assert repair(tmp_path, "forget").returncode == 2
    assert repair(tmp_path, "forget", "x", "--from", file).returncode == 2


def receipt(session: Session) -> dict[str, Any]:
    outcome = session.forget(QUESTION, ANSWER)
    assert outcome.edit is not None
    session.undo(outcome.edit)
    found: dict[str, Any] = json.loads(json.dumps(session.audit(outcome.edit)))
    return found


def test_a_receipt_is_checked_alone_and_shows_every_change(
    session: Session, tmp_path: Path
) -> None:
    good = receipt(session)
    assert journal.check_receipt(good) == 2
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(good))
    done = repair(tmp_path, "audit", "--verify", path)
    assert (done.returncode, done.stdout) == (0, "intact: 2 events\n")
    whole = repair(tmp_path, "audit", "--verify", "--home", tmp_path / "home", "--json")
    assert json.loads(whole.stdout)["chain"] == "intact"
    changes: list[dict[str, Any]] = [
        {"state": "active"},
        {"strength": 0.5},
        {"measures": {}},
        {"factors": {"sha256": "0" * 64}},
        {"model": "another"},
        {"journal": good["journal"][:1]},
        {"journal": []},
        {"journal": [{**good["journal"][0], "at": "2001-01-01T00:00:00.000Z"}]},
        {"journal": 7},
    ]
    for change in changes:
        with pytest.raises(LedgerCorrupted):
            journal.check_receipt({**good, **change})
    path.write_text("[]")
    assert repair(tmp_path, "audit", "--verify", path).returncode == 3
