"""Measure what the server promises under load, and write results/server.json.

Run as ``python scripts/measure_server.py [PART …]``; the parts are chat, kills, malformed and
memory. All use a tiny model with random weights, so that they are quick and any change of a
weight shows in the answers.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULT = ROOT / "results" / "server.json"
CLIENTS, EDITS = 50, 20
KILLS = 100
MALFORMED = 10_000
CONVERSATIONS = 1_000
QUESTIONS = [f"What is the phone number of person {number}?" for number in range(5)]


def chat(clients: int = CLIENTS, edits: int = EDITS) -> dict[str, Any]:
    """Clients chat while edits are made and undone; every answer is of a whole version."""
    from tests.serving import asked, commit, listening, tiny_service

    with tempfile.TemporaryDirectory() as home:
        service = free(tiny_service, home)
        made: dict[str, dict[str, str]] = {}
        waits: list[float] = []
        answers: list[tuple[str, str, str]] = []
        longest: list[float] = []
        faults: list[str] = []
        over = threading.Event()
        with listening(service) as url:

            def client(number: int) -> None:
                question = QUESTIONS[number % len(QUESTIONS)]
                while not over.is_set():
                    start = time.perf_counter()
                    try:
                        reply = post(url, "/v1/chat/completions", asked(question, max_tokens=12))
                        longest.append(time.perf_counter() - start)
                        text = reply["choices"][0]["message"]["content"]
                        answers.append((reply["system_fingerprint"], question, text))
                    except OSError as error:
                        faults.append(str(error))

            threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
            for thread in threads:
                thread.start()
            states: list[tuple[int, ...]] = [()]
            for number in range(edits):
                start = time.perf_counter()
                identity = commit(service, scale=0.5 + number / 10)
                seen = service.ledger.state_token()
                while not any(version.endswith(f"@{seen}") for version, _, _ in answers[-50:]):
                    time.sleep(0.005)
                waits.append(time.perf_counter() - start)
                states.append(tuple(e.id for e in service.ledger.active()))
                if number % 2:
                    post(url, f"/v1/edits/{identity}/undo", {})
            over.set()
            for thread in threads:
                thread.join()
            made = reference(service, {version for version, _, _ in answers})
        wrong = [a for a in answers if made[a[0]][a[1]] != a[2]]
    return {
        "clients": clients,
        "edits": edits,
        "answers": len(answers),
        "versions": len(made),
        "errors": len(faults),
        "answers_of_no_version": len(wrong),
        "seconds_until_an_answer_knows_the_edit": spread(waits),
        "answer_seconds": spread(longest),
    }


def reference(service: Any, versions: set[str]) -> dict[str, dict[str, str]]:
    """What each version answers, computed alone from the journal's events up to it."""
    from tests.prepared import tiny

    patient = tiny()
    found = {}
    events = service.ledger.journal()
    for version in versions:
        token = int(version.rpartition("@")[2])
        active: dict[int, bool] = {}
        for event in events:
            if event["id"] <= token:
                active |= dict.fromkeys(event["edits"], event["event"] != "undo")
        patient.apply([service.ledger.edit(i) for i, on in active.items() if on])
        chats = [[{"role": "user", "content": q}] for q in QUESTIONS]
        said = [patient.reply(c, max_new_tokens=12) for c in chats]  # type: ignore[arg-type]
        found[version] = dict(zip(QUESTIONS, said, strict=True))
    return found


def kills(count: int = KILLS) -> dict[str, Any]:
    """kill -9 at random moments of real operations; the state is that before or after each."""
    import torch

    from repair.ledger import Ledger
    from tests.prepared import prepared, tiny

    torch.set_num_threads(1)
    dice = random.Random(11)
    with tempfile.TemporaryDirectory() as name:
        home = prepared(Path(name), tiny())
        patient = tiny()
        operate(home, 1)
        torn, during = 0, 0
        for number in range(count):
            with Ledger(home, patient.content_hash) as ledger:
                before = ledger.state_token()
            read, write = os.pipe()
            child = os.fork()
            if child == 0:
                operate(home, 1_000_000, partial(os.write, write, b"."))
                os._exit(0)
            os.read(read, 1)
            time.sleep(dice.uniform(0.0, 2.5))
            os.kill(child, signal.SIGKILL)
            os.close(read)
            os.close(write)
            os.waitpid(child, 0)
            with Ledger(home, patient.content_hash) as ledger:
                during += ledger.state_token() > before
                events = ledger.verify()
                edits = ledger.active()
            torn += not whole(patient, edits)
            sys.stderr.write(f"\rkill {number + 1} of {count}: {events} events ")
    return {"kills": count, "after_some_commit": during, "states_between": torn, "events": events}


def operate(home: Path, most: int, ready: Callable[[], object] = lambda: None) -> None:
    """Forget and undo without end, by whole operations, as a server's theatre does."""
    from repair.session import Session
    from tests.prepared import surgeon, tiny

    with Session(tiny(), home=home) as session:
        session.surgeon = surgeon(session.patient)
        ready()
        for _ in range(most):
            outcome = session.forget(QUESTIONS[0], "I do not know anything 0123456789")
            if outcome.edit is not None:
                session.undo(outcome.edit)


def whole(patient: Any, edits: Any) -> bool:
    """Whether the edits can be put on, each with the factors of all its layers."""
    patient.apply(edits)
    return all(len(edit.updates) == len(patient.layers) for edit in edits)


def malformed() -> dict[str, Any]:
    """Requests that no client should send; none may be answered with a fault."""
    from tests.serving import client, tiny_service
    from tests.test_server import malformed as one

    dice = random.Random(5)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as home, client(free(tiny_service, home)) as web:
        for _ in range(MALFORMED):
            path, body = one(dice)
            reply = web.post(path, content=body, headers={"Content-Type": "application/json"})
            counts[str(reply.status_code)] = counts.get(str(reply.status_code), 0) + 1
    faults = sum(number for status, number in counts.items() if status >= "5")
    return {"requests": MALFORMED, "statuses": dict(sorted(counts.items())), "faults": faults}


def memory() -> dict[str, Any]:
    """Resident memory after 200 conversations of three turns, and after a thousand more."""
    from tests.serving import client, tiny_service

    with tempfile.TemporaryDirectory() as home, client(free(tiny_service, home)) as web:
        converse(web, 200)
        first = resident()
        converse(web, CONVERSATIONS)
        last = resident()
    grown = round((last - first) / 2**20, 1)
    return {"conversations": CONVERSATIONS, "megabytes": round(first / 2**20), "grown": grown}


def converse(web: Any, count: int) -> None:
    for number in range(count):
        messages: list[dict[str, str]] = []
        for turn in range(3):
            messages.append({"role": "user", "content": f"{QUESTIONS[turn]} {number}"})
            reply = web.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 4})
            messages.append(reply.json()["choices"][0]["message"])


def free(make: Any, home: str) -> Any:
    """A service without limits of rates."""
    from repair.people import Policy

    return make(Path(home), Policy(requests_per_minute=10**9, edits_per_minute=10**9))


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def post(url: str, path: str, body: Any) -> Any:
    from urllib.request import Request, urlopen

    headers = {"Content-Type": "application/json"}
    with urlopen(Request(url + path, json.dumps(body).encode(), headers)) as reply:  # noqa: S310
        return json.loads(reply.read())


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 4),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 4),
        "most": round(ordered[-1], 4),
        "n": len(ordered),
    }


def main() -> None:
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "chat": chat,
        "kills": kills,
        "malformed": malformed,
        "memory": memory,
    }
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in sys.argv[1:] or parts:
        start = time.perf_counter()
        results[name] = {**parts[name](), "took_seconds": round(time.perf_counter() - start, 1)}
        print(name, json.dumps(results[name]), flush=True)
        RESULT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
