"""The ledger where storage fails or is shared: one sentence, a remedy, and nothing lost."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import event

from repair.errors import DiskFull, EnvironmentProblem, LedgerBusy, LedgerCorrupted
from repair.ledger import Ledger
from repair.types import LowRankUpdate
from tests.test_ledger import QUESTION, commit, same, tampered, updates


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "home", "model-a") as opened:
        yield opened


@pytest.mark.parametrize("damage", ["text", "empty", "half", "missing", "foreign", "unversioned"])
def test_a_damaged_ledger_is_named_and_left_alone(ledger: Ledger, damage: str) -> None:
    commit(ledger)
    home, path = ledger.home, ledger.home / "ledger.db"
    ledger.close()
    whole = path.read_bytes()
    if damage == "foreign":
        path.unlink()
        tampered(home, "CREATE TABLE songs (id INTEGER)")
    elif damage == "unversioned":
        tampered(home, "DELETE FROM alembic_version")
    elif damage == "missing":
        path.unlink()
    else:
        contents = {
            "text": b"not a database " * 999,
            "empty": b"",
            "half": whole[: len(whole) // 2],
        }
        path.write_bytes(contents[damage])
    left = path.read_bytes() if path.exists() else None
    for _ in range(2):
        with pytest.raises(LedgerCorrupted) as caught, Ledger(home, "model-a") as opened:
            opened.active()
        assert str(home) in caught.value.message
        assert "backup" in caught.value.remedy
        assert (path.read_bytes() if path.exists() else None) == left


def test_a_damaged_page_is_not_taken_for_an_edit(ledger: Ledger) -> None:
    big = [LowRankUpdate(0, b=torch.ones(200, 8), a=torch.ones(8, 600))]
    commit(ledger, updates=big)
    ledger.close()
    path = ledger.home / "ledger.db"
    content = bytearray(path.read_bytes())
    content[content.find(torch.ones(500).numpy().tobytes())] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupted), Ledger(ledger.home, "model-a") as opened:
        opened.active()


def test_a_newer_ledger_asks_for_an_upgrade(ledger: Ledger) -> None:
    ledger.close()
    tampered(ledger.home, "UPDATE alembic_version SET version_num = '9999'")
    before = hashlib.sha256((ledger.home / "ledger.db").read_bytes()).hexdigest()
    with pytest.raises(EnvironmentProblem, match="newer version") as caught:
        Ledger(ledger.home, "model-a")
    assert not isinstance(caught.value, LedgerCorrupted)
    assert "Upgrade" in caught.value.remedy
    assert hashlib.sha256((ledger.home / "ledger.db").read_bytes()).hexdigest() == before


def test_a_lost_key_stops_what_needs_it_and_nothing_else(ledger: Ledger) -> None:
    commit(ledger)
    ledger.close()
    (ledger.home / "key").rename(ledger.home / "key-kept-elsewhere")
    with Ledger(ledger.home, "model-a") as opened:
        for needs_key in (lambda: commit(opened), lambda: opened.probes(1)):
            with pytest.raises(LedgerCorrupted, match="key") as caught:
                needs_key()
            assert "backup" in caught.value.remedy
        assert not (ledger.home / "key").exists()
        assert same(opened.active()[0].updates, updates(0))
        opened.undo([1])
        assert opened.verify() == 2


def test_a_wrong_key_is_noticed_before_it_is_used(ledger: Ledger) -> None:
    commit(ledger)
    ledger.close()
    (ledger.home / "key").write_bytes(bytes(32))
    with Ledger(ledger.home, "model-a") as opened, pytest.raises(LedgerCorrupted, match="key"):
        commit(opened)


def test_a_home_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for home in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(EnvironmentProblem) as caught:
            Ledger(home, "model-a")
        assert caught.value.remedy
    assert (tmp_path / "file").read_text() == "mine"


def test_a_home_without_rights(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Ledger(home, "model-a") as ledger:
        commit(ledger)
    # Root may do everything, so a child gives its rights up once all modules are loaded.
    code = (
        "import os, sys, alembic.command; from pathlib import Path\n"
        "import repair.ledger as ledger, repair.errors as errors\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: ledger.Ledger(Path(sys.argv[1]), 'model-a').active()\n"
        "except errors.EnvironmentProblem as error: print(type(error).__name__, error.remedy)"
    )
    home.chmod(0o500)
    for folder in (home, home / "new"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
        )
        assert done.stdout.startswith("EnvironmentProblem Check"), done.stderr
    home.chmod(0o700)


def test_a_full_database_keeps_what_was_there(ledger: Ledger) -> None:
    commit(ledger)
    big = [LowRankUpdate(0, b=torch.ones(64, 64), a=torch.ones(64, 512))]

    def limit(connection: Any, *_: Any) -> None:
        connection.execute("PRAGMA max_page_count = 40")

    event.listen(ledger._engine, "checkout", limit)
    with pytest.raises(DiskFull) as caught:
        commit(ledger, updates=big)
    event.remove(ledger._engine, "checkout", limit)
    assert "Free some space" in caught.value.remedy
    assert [line.id for line in ledger.history()] == [1]
    assert ledger.verify() == 1
    assert same(ledger.active()[0].updates, updates(0))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no file size limits here")
@pytest.mark.parametrize("limit", [0, 16, 4096, 30_000])
def test_a_disk_that_ends_early_keeps_what_was_there(ledger: Ledger, limit: int) -> None:
    commit(ledger)
    ledger.close()
    # The system itself refuses to write past the limit: a real failure in the middle.
    code = (
        "import resource, sys; from pathlib import Path\n"
        "import repair.ledger as ledger, repair.errors as errors\n"
        "limit = int(sys.argv[2])\n"
        "for home in (Path(sys.argv[1]), Path(sys.argv[1]) / 'fresh'):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        with ledger.Ledger(home, 'model-a') as one:\n"
        "            for _ in range(99): one.note('refused', {'values': [0] * 999})\n"
        "    except errors.DiskFull as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ledger.home), str(limit)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["DiskFull", "DiskFull"], done.stderr
    with Ledger(ledger.home, "model-a") as opened:
        assert same(opened.active()[0].updates, updates(0))
        assert opened.verify() >= 1
    with Ledger(ledger.home / "fresh", "model-a") as opened:
        assert opened.history() == ()


# Two processes


def test_the_lock_is_nested_in_one_thread_and_closed_to_other_processes(ledger: Ledger) -> None:
    code = (
        "import sys; from pathlib import Path; from repair.ledger import Ledger\n"
        "with Ledger(Path(sys.argv[1]), 'model-a') as one, one.lock():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with Ledger(ledger.home, "model-b") as other, ledger.lock(), other.lock(), ledger.lock(0):
        commit(other)
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(ledger.home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(LedgerBusy, match="Another process") as caught, ledger.lock(0.05):
            pytest.fail("two processes hold one lock")
        assert caught.value.remedy
        assert ledger.active() == (), "reading does not wait for a writer"
        child.communicate()
    assert child.returncode == 0
    with ledger.lock(0):
        commit(ledger)


def test_threads_do_not_share_a_hold(ledger: Ledger) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        ids = sorted(pool.map(lambda seed: commit(ledger, seed), range(8)))
    assert ids == list(range(1, 9))
    assert ledger.verify() == 8


def test_a_copy_of_the_home_is_a_backup(ledger: Ledger, tmp_path: Path) -> None:
    commit(ledger)
    ledger.close()
    shutil.copytree(ledger.home, tmp_path / "copy")
    with Ledger(tmp_path / "copy", "model-a") as opened:
        assert opened.probes(1)[0].question == QUESTION
        assert commit(opened, 1) == 2
