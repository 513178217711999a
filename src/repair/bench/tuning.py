"""The same search budget for every method; knows grids and scores, no models and no losses.

A search tries the published defaults first and then settings drawn from the method's grid.
Every trial is one line of a JSONL transcript, written when it ends, so a search that was
stopped goes on where it stood.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from repair.bench.losses import Value
from repair.errors import DiskFull, NotFinite, OperationRefused, UsageError

VERSION = 1


class Tunable(Protocol):
    """A method whose settings are searched: their defaults, and a grid for some of them."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def grid(self) -> Mapping[str, tuple[Value, ...]]: ...
    def settings(self, chosen: Mapping[str, Value]) -> dict[str, Value]: ...


@dataclass(frozen=True)
class Score:
    """How good some settings are: ``value``, the higher the better, and what is behind it."""

    value: float
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One tried setting; ``score`` is None where the method failed, and ``error`` says how.

    ``study`` names what was searched on (task, split, size, model): trials of different
    studies may share a transcript.
    """

    study: str
    method: str
    seed: int
    trial: int
    settings: Mapping[str, Value]
    score: float | None
    measures: Mapping[str, float]
    seconds: float
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Trial:
        """The trial of a record.

        Raises:
            ValueError: another version, or fields too many, missing or of the wrong kind.
        """
        values = dict(record)
        version = values.pop("version", None)
        if version != VERSION:
            raise ValueError(f"its version is {version}, not {VERSION}")
        try:
            trial = cls(**values)
        except TypeError as error:
            raise ValueError("its fields are not those of a trial") from error
        if not isinstance(trial.settings, dict) or not isinstance(trial.trial, int):
            raise ValueError("its settings or its number are of the wrong kind")
        return trial


@dataclass(frozen=True)
class Search:
    """All trials of one method, in order, and the best of them."""

    trials: tuple[Trial, ...]
    best: Trial


def candidates(baseline: Tunable, trials: int, seed: int) -> list[dict[str, Value]]:
    """The settings to try: the defaults, then others from the grid, none twice.

    Equal for an equal seed; a larger budget only adds settings at the end.

    Raises:
        UsageError: no trials, or more than the method has settings.
    """
    defaults = baseline.settings({})
    names = sorted(baseline.grid)
    points = itertools.product(*(baseline.grid[name] for name in names))
    drawn = [baseline.settings(dict(zip(names, point, strict=True))) for point in points]
    others = [settings for settings in drawn if settings != defaults]
    if not 1 <= trials <= len(others) + 1:
        raise UsageError(
            f"{baseline.title} cannot be searched in {trials} trials.",
            f"Give every method between 1 and {len(others) + 1}.",
        )
    random.Random(f"{seed}:{baseline.name}").shuffle(others)
    return [defaults, *others[: trials - 1]]


def tune(
    baseline: Tunable,
    score: Callable[[Mapping[str, Value]], Score],
    *,
    trials: int,
    seed: int = 0,
    study: str = "",
    transcript: Path | None = None,
) -> Search:
    """Score a method's settings, each once, and say which were best.

    A method that diverges (``NotFinite``) or cannot work with some settings (``UsageError``) has
    a trial without a score, which uses up its place in the budget. Of equal scores the earlier
    trial wins.

    Args:
        score: trains and measures one setting.
        transcript: JSONL file to go on with and to add to; other studies' lines are left.

    Raises:
        UsageError: a transcript with a broken line or with other settings for a trial, a
            score that is no number, or an impossible budget.
        OperationRefused: every trial failed.
        DiskFull: the transcript cannot be written.
    """
    wanted = candidates(baseline, trials, seed)
    done = {} if transcript is None else _done(transcript, study, baseline.name, seed)
    results: list[Trial] = []
    for number, settings in enumerate(wanted):
        trial = done.get(number)
        if trial is None:
            trial = _try(baseline, score, settings, (study, seed, number))
            if transcript is not None:
                _append(transcript, trial)
        elif trial.settings != settings:
            raise UsageError(
                f"Trial {number} of {baseline.title} in {transcript} had other settings.",
                "The grid has changed since: start a new transcript.",
            )
        results.append(trial)
    scored = [trial for trial in results if trial.score is not None]
    if not scored:
        raise OperationRefused(
            f"All {trials} trials of {baseline.title} failed, the first: {results[0].error}"
        )
    best = max(scored, key=lambda trial: (trial.score, -trial.trial))
    return Search(tuple(results), best)


def read_transcript(path: Path) -> list[Trial]:
    """All trials of a transcript; a last line that was cut short by a kill is left out.

    Raises:
        UsageError: a line that is no trial, by its number; or a file that cannot be read.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"The transcript {path} cannot be read ({error}).") from error
    trials: list[Trial] = []
    for number, line in enumerate(text.split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("it is no JSON object")
            trials.append(Trial.from_json(record))
        except ValueError as error:
            raise UsageError(
                f"Line {number} of {path} is no trial: {error}.", "Start a new transcript."
            ) from error
    return trials


def _done(path: Path, study: str, method: str, seed: int) -> dict[int, Trial]:
    return {
        trial.trial: trial
        for trial in read_transcript(path)
        if (trial.study, trial.method, trial.seed) == (study, method, seed)
    }


def _try(
    baseline: Tunable,
    score: Callable[[Mapping[str, Value]], Score],
    settings: dict[str, Value],
    place: tuple[str, int, int],
) -> Trial:
    study, seed, number = place
    value: float | None = None
    measures: Mapping[str, float] = {}
    problem = ""
    start = time.perf_counter()
    try:
        result = score(settings)
        value, measures = result.value, result.measures
    except (NotFinite, UsageError) as error:
        problem = error.message
    seconds = time.perf_counter() - start
    for name, figure in {"score": value, **measures}.items():
        if figure is not None and not math.isfinite(figure):
            raise UsageError(f"Trial {number} of {baseline.title} has {figure} as its {name}.")
    return Trial(
        study, baseline.name, seed, number, settings, value, dict(measures), seconds, problem
    )


def _append(path: Path, trial: Trial) -> None:
    """Add one line that is on the disk when this returns, after cutting off a half line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(trial.to_json(), ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DiskFull(
            f"The transcript {path} cannot be written ({error}).", "Free space or choose another."
        ) from error
