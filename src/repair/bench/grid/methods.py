"""Every row of the table by name: what it may be tuned in, and how it makes a patient forget.

Knows the methods' names, settings and makers; knows no measure and no file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from repair.bench.datasets.records import Pair
from repair.bench.editors.closed_form import ROME_SEARCH, SPREAD_SEARCH, alphaedit, memit, rome
from repair.bench.editors.values import Request
from repair.bench.finetune import finetune
from repair.bench.grid.cells import Value
from repair.bench.grid.lab import Lab, Made, Maker, timed_updates
from repair.bench.grid.published import redirected
from repair.bench.grid.works import Work
from repair.bench.losses_more import BASELINES
from repair.errors import UsageError
from repair.operation import Operation
from repair.plan import RepairPlan
from repair.refusals import REFUSALS
from repair.trials import Clock
from repair.types import KnownFact

# Facts that the product's operation takes at once; more go one operation after the other.
TOGETHER = 10


@dataclass(frozen=True)
class Method:
    """One row: ``make`` turns a work into a changed patient; ``grid`` is what a search tries."""

    name: str
    title: str
    make: Maker
    defaults: Mapping[str, Value]
    grid: Mapping[str, tuple[Value, ...]]

    @property
    def tunable(self) -> bool:
        return bool(self.grid)

    def settings(self, chosen: Mapping[str, Value]) -> dict[str, Value]:
        """The defaults with the chosen values in their place.

        Raises:
            UsageError: a setting that the method does not have.
        """
        for name in chosen:
            if name not in self.defaults:
                known = ", ".join(sorted(self.defaults)) or "none"
                raise UsageError(f"{self.title} has no setting {name}.", f"It has {known}.")
        return {**self.defaults, **chosen}


def get(name: str) -> Method:
    """The method of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in METHODS:
        raise UsageError(f"No method is called {name}.", f"There are {', '.join(METHODS)}.")
    return METHODS[name]


# Without an edit


def _untouched(lab: Lab, work: Work, settings: Mapping[str, Value], seed: int) -> Made:
    return Made(0.0)


def _oracle(lab: Lab, work: Work, settings: Mapping[str, Value], seed: int) -> Made:
    return Made(0.0, lab.oracle)


# By gradients


def _by_gradients(name: str) -> Maker:
    def make(lab: Lab, work: Work, settings: Mapping[str, Value], seed: int) -> Made:
        forget, buffer = _texts(work.forget), _texts(work.buffer)
        trained = finetune(
            lab.patient, BASELINES[name], forget, buffer, settings=settings, seed=seed
        )
        return Made(trained.seconds, trained.patient, notes={"steps": trained.steps})

    return make


def _texts(pairs: Sequence[Pair]) -> list[tuple[str, str]]:
    return [(pair.question, pair.answer) for pair in pairs]


# In closed form


def _published(form: str) -> Maker:
    def make(lab: Lab, work: Work, settings: Mapping[str, Value], seed: int) -> Made:
        chosen: dict[str, Any] = dict(settings)
        forget, retain = ([p.question for p in pairs] for pairs in (work.forget, work.buffer))
        preparation = lab.preparation
        return timed_updates(
            lambda: redirected(lab.patient, preparation, form, forget, retain, **chosen)
        )

    return make


def _rome(lab: Lab, work: Work, settings: Mapping[str, Value], seed: int) -> Made:
    chosen: dict[str, Any] = dict(settings)
    return timed_updates(
        lambda: rome(
            lab.patient,
            _requests(work),
            REFUSALS[0],
            lab.preparation.statistics,
            layer=int(chosen["depth"] * len(lab.patient.layers)),
            search=replace(ROME_SEARCH, clamp=chosen["clamp"]),
        )
    )


def _spread(lab: Lab, settings: Mapping[str, Value]) -> list[int]:
    """Layers around a relative depth."""
    layers, half = len(lab.patient.layers), float(settings["span"]) / 2
    depth = float(settings["depth"])
    first, last = int(max(0.0, depth - half) * layers), int(min(0.99, depth + half) * layers)
    return list(range(first, last + 1))


def _memit(lab: Lab, work: Work, settings: Mapping[str, Value], seed: int) -> Made:
    chosen: dict[str, Any] = dict(settings)
    width = lab.patient.layers[0].in_features
    return timed_updates(
        lambda: memit(
            lab.patient,
            _requests(work),
            REFUSALS[0],
            lab.preparation.statistics,
            layers=_spread(lab, settings),
            weight=chosen["weight"] * width,
            search=replace(SPREAD_SEARCH, clamp=chosen["clamp"]),
        )
    )


def _alphaedit(lab: Lab, work: Work, settings: Mapping[str, Value], seed: int) -> Made:
    chosen: dict[str, Any] = dict(settings)
    return timed_updates(
        lambda: alphaedit(
            lab.patient,
            _requests(work),
            REFUSALS[0],
            lab.preparation.statistics,
            layers=_spread(lab, settings),
            threshold=chosen["threshold"],
            search=replace(SPREAD_SEARCH, clamp=chosen["clamp"]),
        )
    )


def _requests(work: Work) -> list[Request]:
    """A subject that its question does not name stands for the whole question."""
    return [
        (p.question, p.subject if p.subject in p.question else "", p.answer) for p in work.forget
    ]


# The product


def _repair(lab: Lab, work: Work, settings: Mapping[str, Value], seed: int) -> Made:
    """Whole operations with their checks; one that forgets at a price is confirmed."""
    operation, statuses = Operation(lab.patient, lab.preparation), Counter[str]()
    clock = Clock()
    start = time.perf_counter()
    for first in range(0, len(work.forget), TOGETHER):
        group = work.forget[first : first + TOGETHER]
        with clock.time("surgeon"):
            plan = _plan(lab, group)
        outcome = operation.run(plan, clock, accept=True) if plan else None
        statuses[outcome.status if outcome else "unknown_fact"] += 1
    seconds = time.perf_counter() - start
    edits = lab.patient.active
    lab.patient.apply(())
    return Made(
        seconds, edits=edits, notes={"operations": dict(statuses), "seconds": clock.seconds}
    )


def _plan(lab: Lab, pairs: Sequence[Pair]) -> RepairPlan | None:
    """One plan for these pairs: as the surgeon finds them, else with the answer given."""
    found: list[KnownFact] = []
    for pair in pairs:
        known = lab.surgeon.known(pair.question)[:1]
        plain = KnownFact(pair.subject or pair.question, "", pair.question, pair.answer)
        found += known or [plain]
    return lab.surgeon.plan_facts([pair.question for pair in pairs], found)


_STAMP_GRID: dict[str, tuple[Value, ...]] = {
    "layers": ("one", "all"),
    "strength": (0.5, 1.0, 2.0, 4.0),
    "ridge": (0.01, 0.1, 1.0),
    "beta": (0.0, 1.0, 100.0),
}
_STAMP: dict[str, Value] = {"layers": "one", "strength": 1.0, "ridge": 0.1, "beta": 0.0}
_SPREAD_GRID: dict[str, tuple[Value, ...]] = {
    "depth": (0.2, 0.32, 0.5, 0.7),
    "span": (0.1, 0.4),
    "clamp": (0.75, 2.0, 4.0),
}
_SPREAD: dict[str, Value] = {"depth": 0.32, "span": 0.1, "clamp": 0.75}

_ALL = (
    Method("untouched", "untouched", _untouched, {}, {}),
    Method("oracle", "oracle", _oracle, {}, {}),
    *(
        Method(name, b.title, _by_gradients(name), b.defaults, b.grid)
        for name, b in BASELINES.items()
    ),
    Method(
        "rome",
        "ROME",
        _rome,
        {"depth": 0.36, "clamp": 2.0},
        {"depth": (0.2, 0.36, 0.5, 0.7), "clamp": (0.75, 2.0, 4.0)},
    ),
    Method(
        "memit",
        "MEMIT",
        _memit,
        {**_SPREAD, "weight": 0.01},
        {**_SPREAD_GRID, "weight": (0.001, 0.01, 0.1)},
    ),
    Method(
        "alphaedit",
        "AlphaEdit",
        _alphaedit,
        {**_SPREAD, "threshold": 0.1},
        {**_SPREAD_GRID, "threshold": (0.03, 0.1, 0.3)},
    ),
    # Its ridge alone: without the model's own second moment, as the paper has it.
    Method(
        "paper",
        "the paper's own form",
        _published("paper"),
        {name: value for name, value in _STAMP.items() if name != "beta"},
        {
            **{name: values for name, values in _STAMP_GRID.items() if name != "beta"},
            "ridge": (1e-4, 1e-2, 0.1, 1.0),
        },
    ),
    Method("stamp", "STAMP", _published("stamp"), _STAMP, _STAMP_GRID),
    Method(
        "stamp-lr",
        "STAMP-LR",
        _published("stamp-lr"),
        {**_STAMP, "rank": 128.0},
        {**_STAMP_GRID, "rank": (64.0, 128.0)},
    ),
    Method("repair", "RePAIR (this project)", _repair, {}, {}),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
