"""The frozen records that the stages exchange; no behaviour, no torch at import.

Shapes use the letters of docs/architecture.md: n rows (token positions), m the width of
an MLP's last linear map's input, d its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

IntentKind = Literal["forget", "correct", "restore", "none"]
Method = Literal["stamp", "stamp-lr", "paper"]
ProbeKind = Literal["exact", "paraphrase", "prefix", "neighbour", "retain", "replacement"]
Status = Literal["healed", "rolled_back", "unknown_fact", "not_a_request", "needs_confirmation"]
Quantization = Literal["none", "bnb_4bit", "bnb_8bit"]
Task = Literal["personal", "harmful", "misinformation", "world"]
Split = Literal["dev", "tune", "test", "retain"]


class Message(TypedDict):
    """One chat message; ``role`` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Intent:
    """What the watchdog read in one user turn.

    ``targets`` are spans of the text, or the question or name that a pronoun stands for.
    ``replacement`` is the value given with a correction, None otherwise. ``pictures`` are the
    references of the pictures that the turn came with.
    """

    kind: IntentKind
    targets: tuple[str, ...] = ()
    confidence: float = 1.0
    replacement: str | None = None
    pictures: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"intent": self.kind, "targets": list(self.targets), "confidence": self.confidence}


@dataclass(frozen=True)
class Fact:
    """One thing the embedded patient was taught.

    ``paraphrases`` are wordings that training never showed. ``truth`` is set for claims:
    ``answer`` is then what the patient wrongly believes.
    """

    task: Task
    subject: str
    attribute: str
    question: str
    paraphrases: tuple[str, ...]
    answer: str
    split: Split
    truth: str | None = None

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "task": self.task,
            "subject": self.subject,
            "attribute": self.attribute,
            "question": self.question,
            "paraphrases": list(self.paraphrases),
            "answer": self.answer,
        }
        if self.truth is not None:
            record["truth"] = self.truth
        return record


@dataclass(frozen=True)
class KnownFact:
    """A question the patient answers, as the surgeon found it by asking.

    ``rewordings`` are other wordings of the question that go into the edit's rows;
    ``probes`` are wordings kept out of the rows, only to verify with.
    ``standins`` are subjects of the same kind that the patient refuses to answer for.
    ``replacement`` is the answer to give instead (correct); None means a refusal.
    """

    subject: str
    attribute: str
    question: str
    answer: str
    rewordings: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    standins: tuple[str, ...] = ()
    replacement: str | None = None


@dataclass(frozen=True)
class Probe:
    """One question put to the patient to measure recall of ``answer``.

    ``prefix`` is the start of the answer that an attacker gives away, empty otherwise.
    """

    kind: ProbeKind
    question: str
    answer: str
    prefix: str = ""


@dataclass(frozen=True)
class SealedProbe:
    """A probe as the ledger keeps it: the answer only as keyed hashes of its words.

    ``words`` are the hashes, in order, of the tokens that ROUGE-L compares.
    """

    kind: ProbeKind
    question: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """What one operation may cost, as ratios to the patient before it.

    ``forget`` is the highest recall left of what was to be forgotten, and ``prefix`` that of
    the rest of an answer whose first words are given, some of which can be guessed;
    ``neighbours`` and ``retain`` the lowest share of recall kept; ``kl`` the highest mean KL
    divergence in nats a token from the untouched model on the retain sample;
    ``replacement`` the lowest recall of a correction's given answer.
    """

    forget: float = 0.05
    prefix: float = 0.34
    neighbours: float = 0.85
    retain: float = 0.95
    kl: float = 0.5
    replacement: float = 0.9


# A layer's MLP is o = W (act(W_gate x) ⊙ W_up x): its output map W, or one of the two before it.
Part = Literal["output", "gate", "up"]
Place = tuple[int, Part]


@dataclass(frozen=True)
class LowRankUpdate:
    """One matrix's change ΔW = B A in fp32: ``b`` (out × n), ``a`` (n × in).

    ``keys`` F (r × m) stand for the rows of the solve, Fᵀ F ≈ Kᵀ D K: later edits leave the
    outputs there alone. None where there is nothing to protect, as in a foreign adapter.
    ``part`` says which matrix of the layer's MLP it is.
    """

    layer: int
    b: Tensor
    a: Tensor
    keys: Tensor | None = None
    part: Part = "output"

    @property
    def place(self) -> Place:
        """The matrix: its layer, and which one there."""
        return self.layer, self.part


@dataclass(frozen=True)
class Edit:
    """One committed change of the patient; weights are W₀ + Σ B A over active edits."""

    id: int
    updates: tuple[LowRankUpdate, ...]

    def at(self, strength: float) -> Edit:
        """The edit as it acts at a share of its strength: B times ``strength`` (0 to 1).

        What feeds the neurons stays, but at 0: half of it would be other neurons.
        """
        if strength == 1.0:
            return self
        shared = (
            replace(u, b=u.b * strength) if u.part == "output" or not strength else u
            for u in self.updates
        )
        return replace(self, updates=tuple(shared))


def next_id(edits: Sequence[Edit]) -> int:
    """The id of an edit that goes on top of these."""
    return max((edit.id for edit in edits), default=0) + 1


@dataclass(frozen=True)
class Change:
    """A measure before and after an edit; recall in 0..1, n probes behind it."""

    before: float
    after: float
    n: int = 0

    def to_json(self) -> dict[str, float | int]:
        return {"before": round(self.before, 4), "after": round(self.after, 4), "n": self.n}


@dataclass(frozen=True)
class Outcome:
    """What one operation came to; the record behind ``repair forget --json``."""

    status: Status
    edit: int | None = None
    targets: tuple[str, ...] = ()
    method: Method = "stamp-lr"
    layers: tuple[int, ...] = ()
    rank: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    measures: Mapping[str, Change] = field(default_factory=dict)
    kl: float = 0.0
    forward_passes: float = 0.0
    reason: str = ""
    strength: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """The fixed contract: recall, paraphrase, prefix, neighbours, retain are objects."""
        none = Change(0.0, 0.0)
        names = ("recall", "paraphrase", "prefix", "neighbours", "retain")
        return {
            "status": self.status,
            "edit": self.edit,
            "targets": list(self.targets),
            "method": self.method,
            "layers": list(self.layers),
            "rank": self.rank,
            "strength": self.strength,
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            **{name: self.measures.get(name, none).to_json() for name in names},
            **{n: change.to_json() for n, change in self.measures.items() if n not in names},
            "kl": round(self.kl, 5),
            "forward_passes": round(self.forward_passes, 2),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Stage:
    """One step of an operation as it happens, for the front doors to show.

    ``name`` is found, planned, edited, checked, committed or rolled back.
    """

    name: str
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """One answer of a session: the reply, what the watchdog read, what was done."""

    reply: str
    intent: Intent
    operation: Outcome | None = None

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"reply": self.reply, "intent": self.intent.kind}
        if self.operation is not None:
            record["operation"] = self.operation.to_json()
        return record


@dataclass(frozen=True)
class EditSummary:
    """One line of ``repair history``; ``state`` is active or undone.

    ``strength`` is the share of the change that is in force, from 0 to 1. ``owner`` names the
    one person in whose conversations it acts; empty means everyone's.
    """

    id: int
    at: str
    kind: str
    state: str
    method: str
    layers: tuple[int, ...]
    rank: int
    targets: tuple[str, ...]
    strength: float = 1.0
    owner: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "at": self.at,
            "kind": self.kind,
            "state": self.state,
            "strength": self.strength,
            "method": self.method,
            "layers": list(self.layers),
            "rank": self.rank,
            "targets": list(self.targets),
            "owner": self.owner,
        }


Messages = Sequence[Message]
