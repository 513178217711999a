"""Many edits in one model, one after the other and all at once, and what they come to.

Knows the order of edits, how a cell of the scoreboard is resumed and summed up. What is asked
stands in ``suite``; how an edit is made, in ``operation``.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from repair.bench.suite import Health, Values, forgotten, kept_share, known
from repair.healing import Healer, commit
from repair.ledger import Ledger
from repair.operation import Operation
from repair.patient import Patient
from repair.preparation import prepare
from repair.surgeon import Surgeon
from repair.types import Edit, Fact, KnownFact, next_id
from repair.verify import confidence_interval
from repair.world import facts

TASKS = ("personal", "harmful", "misinformation")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What to run: ``split`` of the forget pool or ``pool`` for all of it, scored on test.

    ``heal``: after how many edits the model is healed, and once at the end; 0 for never.
    """

    split: str = "tune"
    counts: tuple[int, ...] = (1, 10, 100)
    singles: int = 30
    scored: int = 60
    sampled: int = 10
    seed: int = 0
    heal: int = 25


class Scoreboard:
    """Runs the cells of one order on one patient; finished work is read from ``folder``.

    ``finished``: cells of an earlier result that stay as they are, by name.
    """

    def __init__(
        self,
        patient: Patient,
        order: Order,
        folder: Path,
        *,
        oracle: Patient | None = None,
        finished: Mapping[str, dict[str, Any]] | None = None,
        tell: Tell = lambda _: None,
    ) -> None:
        self.patient, self.order, self.folder, self.tell = patient, order, folder, tell
        self.oracle, self.finished = oracle, finished or {}
        folder.mkdir(parents=True, exist_ok=True)
        self.surgeon = Surgeon(patient)
        self.healer: Healer | None = None
        self.preparation = prepare(patient, folder / "cache")
        pool = [f for task in TASKS for f in self._pool(task)]
        random.Random(order.seed).shuffle(pool)
        self.pool = known(patient, pool)

    def _pool(self, task: str) -> tuple[Fact, ...]:
        if self.order.split != "pool":
            return facts(task, self.order.split)
        return tuple(f for f in facts(task) if f.split != "retain")

    def _scored(self, edited: Sequence[Fact]) -> list[Fact]:
        """A sample of the edited facts; of the whole pool only the test part is read."""
        of = [f for f in edited if self.order.split != "pool" or f.split == "test"]
        return random.Random(self.order.seed).sample(of, min(self.order.scored, len(of)))

    def run(self, *, together: bool = True) -> Iterator[dict[str, Any]]:
        """One record for each cell, in order of their cost; ``together``: edits at once, too."""
        for count in self.order.counts:
            if count == 1:
                yield self._kept("single-1", self._singles)
                continue
            if count > len(self.pool):
                self.tell(f"only {len(self.pool)} facts are known; {count} are left out")
                continue
            yield self._kept(f"sequence-{count}", partial(self._sequence, count))
            if together:
                yield self._kept(f"together-{count}", partial(self._together, count))

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name in self.finished:
            return self.finished[name]
        path = self.folder / f"{name}.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        self.patient.apply(())
        try:
            cell = {"cell": name, **make()}
        finally:
            self.patient.apply(())
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(cell, indent=1))
        temporary.replace(path)
        return cell

    # Cells

    def _singles(self) -> dict[str, Any]:
        """Each fact alone from the untouched patient; the mean over all of them."""
        path = self.folder / "single-1.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        operation = Operation(self.patient, self.preparation)
        chosen = self._spread(self.order.singles)
        for index, fact in enumerate(chosen[len(rows) :], start=len(rows)):
            self.tell(f"single edit {index + 1} of {len(chosen)}")
            health = Health(self.patient, [fact], [fact], count=60, seed=self.order.seed)
            start = time.perf_counter()
            status, _ = self._edit(operation, [fact])
            seconds = time.perf_counter() - start
            sampled = int(index < self.order.sampled)
            values = forgotten(self.patient, [fact], seed=self.order.seed, sampled=sampled)
            measured = health.measure(self.patient)
            self.patient.apply(())
            row = {"status": status, "seconds": seconds, "attacks": values, "health": measured}
            rows.append(row)
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        guess = self._guess(chosen)
        return {"edits": len(rows), **_merged(rows), "guess": guess}

    def _sequence(self, count: int) -> dict[str, Any]:
        """``count`` edits one after the other in one model; every one is scored at the end."""
        chosen = self.pool[:count]
        health = Health(self.patient, chosen, self._scored(chosen), seed=self.order.seed)
        journal = self.folder / "sequence.jsonl"
        done = [json.loads(s) for s in journal.read_text().splitlines()] if journal.exists() else []
        with Ledger(self.folder / "sequence", self.patient.content_hash) as ledger:
            operation = Operation(self.patient, self.preparation, ledger)
            self.patient.apply(self._first(ledger, done[:count]))
            for index in range(len(done), count):
                self.tell(f"edit {index + 1} of {count}")
                row = self._made(operation, chosen[index])
                done.append(row)
                if self._due(index + 1, count):
                    row["healed"] = self._heal(operation, done)
                    row["again"] = self._again(operation, chosen, done)
                with journal.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            return self._measured(chosen, health, done[:count])

    def _made(self, operation: Operation, fact: Fact) -> dict[str, Any]:
        """One edit of a sequence, as the journal keeps it."""
        start = time.perf_counter()
        status, facts = self._edit(operation, [fact])
        return {
            "status": status,
            "seconds": time.perf_counter() - start,
            "edit": self.patient.active[-1].id if status == "healed" else None,
            "facts": [asdict(fact) for fact in facts if status == "healed"],
        }

    def _again(
        self, operation: Operation, chosen: Sequence[Fact], done: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Ask once more, now that there is room, for what was turned down so far."""
        made = {row["index"] for row in _repeated(done) if row["status"] == "healed"}
        left = [i for i, row in enumerate(done) if row["status"] != "healed" and i not in made]
        self.tell(f"{len(left)} requests once more")
        return [{"index": i, **self._made(operation, chosen[i])} for i in left]

    def _due(self, made: int, count: int) -> bool:
        """Whether to heal after so many edits: every so often, and before they are scored."""
        every = self.order.heal
        return every > 0 and made > 1 and (made % every == 0 or made in (count, *self.order.counts))

    def _heal(self, operation: Operation, done: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Heal under the active edits; the counts before and after, and its edit if kept."""
        self.tell(f"healing after {len(done)} edits")
        start = time.perf_counter()
        self.healer = self.healer or Healer(operation, self.surgeon)
        self.healer.operation = operation
        rows = [*done, *_repeated(done)]
        facts = [KnownFact(**_tuples(f)) for row in rows for f in row["facts"]]
        found = self.healer.run(facts)
        identity = None
        if found.better:
            identity = next_id(self.patient.active)
            if operation.ledger is not None:
                over = [edit.id for edit in self.patient.active]
                identity = commit(operation.ledger, found, over)
            self.patient.apply((*self.patient.active, Edit(identity, found.updates)))
        return {
            "edit": identity,
            "asked": found.asked,
            "hurt": found.hurt,
            "requests": found.requests,
            "given_away": found.given_away,
            "seconds": time.perf_counter() - start,
        }

    @staticmethod
    def _first(ledger: Ledger, done: Sequence[dict[str, Any]]) -> list[Any]:
        ids = {row["edit"] for row in (*done, *_repeated(done))}
        ids |= {row.get("healed", {}).get("edit") for row in done}
        return [edit for edit in ledger.active() if edit.id in ids]

    def _together(self, count: int) -> dict[str, Any]:
        """One operation for all of them."""
        chosen = self.pool[:count]
        health = Health(self.patient, chosen, self._scored(chosen), seed=self.order.seed)
        start = time.perf_counter()
        operation = Operation(self.patient, self.preparation)
        status, facts = self._edit(operation, chosen)
        row: dict[str, Any] = {"status": status, "seconds": time.perf_counter() - start}
        if self.order.heal and status == "healed":
            row["facts"] = [asdict(fact) for fact in facts]
            row["healed"] = self._heal(operation, [row])
        return self._measured(chosen, health, [row])

    def _edit(
        self, operation: Operation, chosen: Sequence[Fact]
    ) -> tuple[str, tuple[KnownFact, ...]]:
        """Plan and carry out one operation for these facts; its status and the plan's facts."""
        surgeon = self.surgeon
        found = [
            known
            for fact in chosen
            for known in surgeon.found(partial(surgeon.known, fact.question))[:1]
        ]
        plan = surgeon.plan_facts([f.question for f in chosen], found)
        if plan is None:
            return "unknown_fact", ()
        return operation.run(plan).status, plan.facts

    # Measures

    def _spread(self, count: int) -> list[Fact]:
        """The first facts of the pool, as many of each task."""
        each = -(-count // len(TASKS))
        return [f for task in TASKS for f in [p for p in self.pool if p.task == task][:each]]

    def _measured(
        self, chosen: Sequence[Fact], health: Health, rows: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        scored = self._scored(chosen)
        order = self.order
        row = {
            "attacks": forgotten(self.patient, scored, seed=order.seed, sampled=order.sampled),
            "health": health.measure(self.patient),
        }
        seconds = [r["seconds"] for r in rows]
        status = [r["status"] for r in rows]
        for again in _repeated(rows):
            status[again["index"]] = again["status"]
        return {
            "edits": len(chosen),
            **_merged([{**row, "status": "", "seconds": 0.0}]),
            "status": dict(Counter(status)),
            "seconds": {"first": seconds[0], "last": seconds[-1], "total": sum(seconds)},
            "healed": [r["healed"] for r in rows if r.get("healed")],
            "guess": self._guess(scored),
        }

    def _guess(self, chosen: Sequence[Fact]) -> dict[str, float]:
        """What a model that never learned the facts recalls by guessing: the oracle."""
        if self.oracle is None:
            return {}
        order = self.order
        values = forgotten(self.oracle, chosen, seed=order.seed, sampled=order.sampled)
        return {kind: sum(v) / len(v) for kind, v in values.items()}


def _repeated(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was asked for once more after the healings among these rows."""
    return [again for row in rows for again in row.get("again", ())]


def _tuples(fact: dict[str, Any]) -> dict[str, Any]:
    """A fact's fields as JSON gave them, lists as tuples again."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in fact.items()}


def _interval(values: Sequence[float]) -> dict[str, float | int]:
    mean, low, high = confidence_interval(values)
    return {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4), "n": len(values)}


def _merged(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Intervals of all rows' values together."""
    attacks: Values = {}
    groups: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for kind, values in row["attacks"].items():
            attacks.setdefault(kind, []).extend(values)
        for name, parts in row["health"]["recall"].items():
            for part, values in parts.items():
                groups.setdefault(name, {}).setdefault(part, []).extend(values)
    seconds = sorted(row["seconds"] for row in rows)
    health = [row["health"] for row in rows]
    return {
        "status": dict(Counter(row["status"] for row in rows)),
        "seconds": {"median": round(seconds[len(seconds) // 2], 3)},
        "attacks": {kind: _interval(values) for kind, values in attacks.items()},
        "kept": {
            name: {"ratio": round(kept_share(parts), 4), **_interval(parts["after"])}
            for name, parts in groups.items()
        },
        "over_refusal": _interval([v for parts in groups.values() for v in parts["refused"]]),
        "perplexity_ratio": round(sum(h["perplexity"] for h in health) / len(health), 4),
        "kl": round(sum(h["kl"] for h in health) / len(health), 5),
    }
