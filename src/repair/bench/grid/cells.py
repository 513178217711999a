"""What one cell of the grid is: which task, size and method, on which model and data.

Knows names and numbers that identify a measurement; loads neither torch nor data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from repair.errors import UsageError

Kind = Literal["run", "attack"]
TASKS = ("personal", "harmful", "misinformation")
SIZES = ("1", "10", "full")
SPLITS = ("dev", "tune", "test")
# How many sets of facts of a size are forgotten, each from the untouched patient.
REPEATS: Mapping[str, int] = {"1": 10, "10": 2, "full": 1}
Value = float | str


@dataclass(frozen=True)
class Cell:
    """One measurement, named so that it can be made again.

    Attributes:
        size: how many facts are forgotten in one model: 1, 10, or ``full`` for all of them.
        repeats: how many sets of that size, each from the untouched patient.
        limit: the most facts of ``full``; 0 sets none.
        settings: of the method, in place of its published ones; ``searched`` says where they
            come from.
        forget, retain: files or data sets in place of the embedded patient's own tasks.
        model, revision, dtype, device: which patient; None is the embedded one.
        model_hash: of the patient's untouched weights.
        data: SHA-256 of each file of ``forget`` and ``retain``.
        attacks: families of attacks, of a cell of that kind.
        tofu: whether the report of the common harness is measured too.
    """

    kind: Kind
    task: str
    size: str
    method: str
    split: str = "dev"
    seed: int = 0
    repeats: int = 1
    limit: int = 0
    settings: Mapping[str, Value] = field(default_factory=dict)
    searched: str = "published defaults"
    forget: str | None = None
    retain: str | None = None
    model: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    oracle: str | None = None
    model_hash: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    attacks: tuple[str, ...] = ()
    tofu: bool = False

    @property
    def name(self) -> str:
        """The stem of the cell's file: unique in a folder of results of one order."""
        return f"{self.kind}-{self.task}-{self.size}-{self.method}-{self.split}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "settings": dict(self.settings), "attacks": list(self.attacks)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Cell:
        """The cell of a record.

        Raises:
            UsageError: fields too many or missing.
        """
        names = {f.name for f in fields(cls)}
        wrong = sorted(set(record) ^ names)
        if wrong:
            raise UsageError(f"The cell's fields are not those of this version: {wrong[0]}.")
        return cls(**{**record, "attacks": tuple(record["attacks"])})


def chosen(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Names from "a,b" or "all", in the order given, each once.

    Raises:
        UsageError: a name that is not known, or none.
    """
    if text.strip() == "all":
        return known
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in known:
            raise UsageError(f"There is no {what} {name!r}.", f"Choose from {', '.join(known)}.")
    if not names:
        raise UsageError(f"No {what} is named.", f"Choose from {', '.join(known)}.")
    return names
