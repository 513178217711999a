"""A SuperLink, three SuperNodes and ``flwr run``; run by ``make test-flower``, with Flower."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from repair.joint import merged
from repair.ledger import Ledger
from repair.operation import Operation
from repair.patient import Patient
from repair.plan import RepairPlan
from repair.rows import build_rows
from repair.session import Session

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "examples" / "flower"
BIN = Path(os.environ.get("FLOWER", ROOT / ".venv-flower")) / "bin"
pytestmark = pytest.mark.skipif(
    not (BIN / "flwr").exists(), reason="Flower is not here; make test-flower"
)
REQUESTS = {
    "north": "Please forget where Mara Voss lives.",
    "south": "Please forget where Leopold Ivory lives.",
    "west": "Please forget what the phone number of Jasper Harker is.",
}


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _started(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A process with its own group, ended with all that it started."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def _federation(folder: Path) -> Iterator[dict[str, str]]:
    """A SuperLink with three SuperNodes, one of which has a file of no use."""
    link = _port()
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }
    (folder / "flwr").mkdir()
    (folder / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{link}"\n'
        "insecure = true\n"
    )
    superlink = ["flower-superlink", "--insecure", "--port", str(link)]
    superlink += ["--disable-runtime-dependency-installation"]
    with _started([str(BIN / superlink[0]), *superlink[1:]], folder / "link.log", environment):
        _answers(link)
        with _nodes(folder, list(REQUESTS), link, environment):
            yield environment


@contextmanager
def _nodes(
    folder: Path, names: list[str], link: int, environment: dict[str, str]
) -> Iterator[None]:
    if not names:
        yield
        return
    name = names[0]
    requests = folder / f"{name}.csv"
    requests.write_text(f"request\n{REQUESTS[name]}\n")
    config = f'requests="{requests}" home="{folder / name}"'
    command = [str(BIN / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{link}"]
    command += ["--port", str(_port()), "--node-config", config]
    with (
        _started(command, folder / f"{name}.log", environment),
        _nodes(folder, names[1:], link, environment),
    ):
        yield


def _answers(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise AssertionError("the SuperLink did not start")


def test_three_supernodes_make_one_joint_edit(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    app = shutil.copytree(APP, tmp_path / "app")
    with _federation(tmp_path) as environment:
        told = f'mask=true out="{out}" home="{tmp_path / "server"}"'
        command = [str(BIN / "flwr"), "run", str(app), "--stream", "--run-config", told]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        end = time.monotonic() + 60
        while not out.exists() and time.monotonic() < end:
            time.sleep(1)
    shown = done.stdout + done.stderr
    assert out.exists(), shown + "".join(p.read_text() for p in tmp_path.glob("*.log"))
    report = json.loads(out.read_text())
    assert [node["status"] for node in report["nodes"].values()] == ["healed"] * 3, shown
    for text in REQUESTS.values():
        assert text.split("where ")[-1].rstrip(".") not in shown
    found = _edits(tmp_path)
    assert len({name for name, _ in found}) == 3
    wanted = _alone(tmp_path, report["strength"])
    for _, change in found:
        for layer, delta in wanted.items():
            error = float((change[layer] - delta).norm() / delta.norm())
            assert error < 1e-4, f"layer {layer} is off by {error:.1e}"


def _edits(folder: Path) -> list[tuple[str, dict[int, torch.Tensor]]]:
    """What every node's ledger holds."""
    model, found = Patient.load().content_hash, []
    for name in REQUESTS:
        with Ledger(folder / name, model) as ledger:
            (edit,) = ledger.active()
            assert ledger.verify() > 0
            found.append((name, {u.layer: u.b @ u.a for u in edit.updates}))
    return found


def _alone(folder: Path, strength: float) -> dict[int, torch.Tensor]:
    """One party that holds everything."""
    with Session(Patient.load(), home=folder / "alone") as session:
        plans = [session.plan(text)["plan"] for text in REQUESTS.values()]
        plan = merged([RepairPlan.model_validate(plan) for plan in plans])
        operation = Operation(session.patient, session.preparation)
        updates = operation.solve(plan, strength, build_rows(session.patient, plan))
    return {update.layer: update.b @ update.a for update in updates}
