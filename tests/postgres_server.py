"""A real PostgreSQL in a temporary folder, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def programs() -> Path | None:
    """The folder with initdb and pg_ctl, if PostgreSQL is installed."""
    found = shutil.which("pg_ctl")
    if found and shutil.which("initdb"):
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


@contextmanager
def postgres() -> Iterator[str]:
    """Gives the address of an empty database; skips the test where it cannot be had."""
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed; scripts/set_up_tests installs it on Debian")
    # PostgreSQL refuses to run as root, and its own user must reach the folder.
    root = os.geteuid() == 0
    as_user = ["runuser", "-u", "postgres", "--"] if root else []
    with tempfile.TemporaryDirectory(prefix="repair-pg-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir()
        if root:
            shutil.chown(data, "postgres")
            shutil.chown(folder, "postgres")
        made = [str(where / "initdb"), "-D", str(data), "-U", "repair", "-A", "trust", "-N"]
        subprocess.run([*as_user, *made], check=True, capture_output=True, cwd="/")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=60"
        control = [*as_user, str(where / "pg_ctl"), "-D", str(data), "-w", "-s"]
        start = [*control, "-o", options, "-l", str(folder / "log"), "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/")
        try:
            yield f"postgresql+psycopg://repair@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=False, cwd="/")
