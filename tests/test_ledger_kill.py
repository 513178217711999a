"""Killed at any moment, a ledger is as before or after the commit and never between.

Run as a program, this file is the victim's parent: it imports everything once, then forks
children that write to the ledger without end, and kills each after a random time.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from repair.ledger import Ledger
from repair.types import LowRankUpdate, Probe

MODEL = "model"
ROUNDS = 15


def updates(number: int) -> list[LowRankUpdate]:
    """Factors told from their number alone, large enough to fill many pages."""
    base = torch.arange(64 * 128, dtype=torch.float32).add(number)
    return [LowRankUpdate(number, b=base.view(128, 64), a=base.view(64, 128))]


def write_without_end(home: Path, done: int) -> None:
    """Commit, and undo every other edit; write each finished step to ``done``."""
    with Ledger(home, MODEL) as ledger:
        number = len(ledger.history())
        while True:
            number += 1
            identity = ledger.commit(
                kind="forget",
                method="stamp-lr",
                redirect=1.0,
                updates=updates(number),
                targets=["a person"],
                probes=[Probe("exact", "Where?", "There.")],
                measures={"number": number},
                tokenise=str.split,
            )
            os.write(done, f"commit {identity}\n".encode())
            if identity % 2 == 0:
                ledger.undo([identity])
                os.write(done, f"undo {identity}\n".encode())


def kill_at_random(seed: int, patience: int, homes: list[Path]) -> None:
    """Print as JSON what each killed child had finished, one list of steps for each home.

    A child is let alone for up to ``patience`` steps and then for some random milliseconds,
    so that every stage is met on a slow machine as well.
    """
    dice = random.Random(seed)
    finished: list[list[list[str]]] = []
    for home in homes:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            write_without_end(home, write)
        os.close(write)
        with os.fdopen(read) as pipe:
            lines = [pipe.readline() for _ in range(dice.randint(0, patience))]
            time.sleep(dice.uniform(0.0, 0.06))
            os.kill(child, signal.SIGKILL)
            lines += pipe.readlines()
        if os.waitpid(child, 0)[1] != signal.SIGKILL:
            sys.exit("a child ended by itself")
        finished.append([line.split() for line in lines])
    sys.stdout.write(json.dumps(finished))


def killed(seed: int, patience: int, homes: list[Path]) -> list[list[list[str]]]:
    """The steps that the killed children had finished, in order, for each home."""
    done = subprocess.run(
        [sys.executable, __file__, str(seed), str(patience), *map(str, homes)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    finished: list[list[list[str]]] = json.loads(done.stdout)
    return finished


def check(home: Path, steps: list[list[str]], rounds: int) -> None:
    with Ledger(home, MODEL) as ledger:
        history = ledger.history()
        ids = [line.id for line in history]
        assert ids == list(range(1, len(ids) + 1)), "an aborted commit leaves no id behind"
        committed = {int(number) for name, number in steps if name == "commit"}
        undone = {int(number) for name, number in steps if name == "undo"}
        assert committed <= set(ids), "what was reported as done is there"
        assert undone <= {line.id for line in history if line.state == "undone"}
        assert len(ids) - len(committed) <= rounds, "at most the commit that was cut short"
        for identity in ids:
            (item,) = ledger.edit(identity).updates
            (expected,) = updates(identity)
            assert item.layer == identity
            assert torch.equal(item.a, expected.a)
            assert torch.equal(item.b, expected.b)
            assert ledger.probes(identity)[0].question == "Where?"
            assert ledger.receipt(identity)["measures"] == {"number": identity}
        states = sum(line.state == "undone" for line in history)
        assert ledger.verify() == len(ids) + states


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def test_killed_while_writing(tmp_path: Path) -> None:
    finished = killed(1, 4, [tmp_path] * ROUNDS)
    steps = [step for steps in finished for step in steps]
    assert len(steps) >= ROUNDS
    check(tmp_path, steps, ROUNDS)


def test_killed_while_the_ledger_is_being_made(tmp_path: Path) -> None:
    # Twice in each home: the second child goes on from whatever the first one left.
    homes = [tmp_path / str(number // 2) for number in range(ROUNDS - 1)]
    finished = killed(2, 0, homes)
    for number, home in enumerate(homes[::2]):
        check(home, finished[2 * number] + finished[2 * number + 1], 2)


if __name__ == "__main__":
    # Imported before the fork, so that the kill meets the work and not an import.
    importlib.import_module("alembic.command")
    kill_at_random(int(sys.argv[1]), int(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
