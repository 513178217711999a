"""How edits and events become bytes, hashes and JSON, and back; knows no database.

Everything that goes into a hash passes through `canonical`, and everything that a caller
measured passes through `numbers_only`, which keeps plain text out of the ledger.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from numbers import Integral, Real
from typing import Any, cast

from repair import __version__
from repair.errors import NotFinite, UsageError
from repair.types import Change, EditSummary, LowRankUpdate, Part, Probe
from repair.vault import Vault

State = tuple[bool, float, str, str]
GENESIS = "0" * 64
"""What the first event of a journal is chained to."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


def now() -> datetime:
    """The time in UTC, to the millisecond that `iso` shows."""
    time = datetime.now(timezone.utc)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def iso(at: datetime) -> str:
    """ISO 8601 in UTC with a Z; a time without zone, as SQLite gives it back, is UTC."""
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    plain = at.astimezone(timezone.utc).replace(tzinfo=None)
    return plain.isoformat(timespec="milliseconds") + "Z"


def canonical(value: Any) -> str:
    """JSON with one spelling for one value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chained(previous: str, event: Mapping[str, Any]) -> str:
    """The sha256 over the previous event's hash and this event's columns but its hash."""
    plain = {name: event[name] for name in ("id", "model", "event", "details")}
    body = canonical({**plain, "at": iso(event["at"])})
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()


def event(row: Any) -> dict[str, Any]:
    """A row of the journal, ready for JSON.

    Raises:
        ValueError: its details do not parse.
    """
    details = json.loads(row.details)
    return {
        "id": row.id,
        "event": row.event,
        "at": iso(row.at),
        "edits": details.pop("edits"),
        "details": details,
        "hash": row.hash,
    }


def replayed(event: Mapping[str, Any], before: State | None) -> State:
    """The state of an edit after one of its events: active, strength, SHA-256 of its factors,
    and whose it is (empty: everyone's)."""
    active, strength, digest, owner = before or (True, 1.0, "", "")
    if event["event"] not in ("adjust", "publish"):
        active = event["event"] != "undo"
    details = event["details"]
    digest, owner = details.get("sha256", digest), details.get("owner", owner)
    return active, details.get("strength", strength), digest, owner


def summary(row: Any) -> EditSummary:
    """A row of the edits, as `repair history` shows it; errors as in `event`."""
    return EditSummary(
        id=row.id,
        at=iso(row.at),
        kind=row.kind,
        state="active" if row.active else "undone",
        method=row.method,
        layers=tuple(json.loads(row.layers)),
        rank=row.rank,
        targets=tuple(json.loads(row.targets)),
        strength=row.strength,
        owner=row.owner,
    )


def name_of(value: str, what: str) -> str:
    """``value``, when it is a name of an enumeration: lower case, no spaces.

    Raises:
        UsageError: it is not; the message does not repeat it, for it may be the secret.
    """
    if not _NAME.fullmatch(value):
        raise UsageError(f"The {what} is not a short name in lower case.")
    return value


def numbers_only(value: Any) -> Any:
    """``value`` ready for JSON when it holds numbers and short names alone.

    Numbers that are not finite become None, since JSON has no word for them.

    Raises:
        UsageError: there is text, or something that is no number, in it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return name_of(value, "text among the measures")
    if isinstance(value, Change):
        return numbers_only(value.to_json())
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) and _NAME.fullmatch(key) for key in value):
            raise UsageError("A measure's name is not a short name in lower case.")
        return {key: numbers_only(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [numbers_only(item) for item in value]
    raise UsageError(f"A measure is a {type(value).__name__}, not a number.")


def share(value: float) -> float:
    """``value``, when it lies from 0 to 1.

    Raises:
        UsageError: it does not.
    """
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"A strength of {value:g} is outside 0 to 1.", "1 is the whole edit.")
    return float(value)


def sealed(
    vault: Vault, probes: Sequence[Probe], tokenise: Callable[[str], Sequence[str]]
) -> list[dict[str, Any]]:
    """Probes as rows: the question encrypted, the answer as hashed words.

    A probe with a prefix shows a part of the answer, which no sealing makes harmless to keep.
    """
    kept = [probe for probe in probes if probe.kind != "prefix" and not probe.prefix]
    return [
        {
            "position": position,
            "kind": name_of(probe.kind, "kind"),
            "question": vault.seal(probe.question),
            "words": canonical(vault.words(tokenise(probe.answer))),
        }
        for position, probe in enumerate(kept)
    ]


def versions() -> dict[str, str]:
    """The versions that made an edit, read without importing the libraries."""
    return {"repair": __version__, **{name: _version(name) for name in ("torch", "transformers")}}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def pack(updates: Sequence[LowRankUpdate]) -> tuple[bytes, list[int], int]:
    """The factors as one safetensors blob: A and B in fp32, bit for bit, keys in bf16.

    Returns:
        The blob, the layers in order, and the highest rank n of b (d × n) and a (n × m).

    Raises:
        UsageError: no updates, or a pair that does not multiply.
        NotFinite: a factor is NaN or infinite.
    """
    import torch
    from safetensors.torch import save

    if not updates:
        raise UsageError("An edit without updates changes nothing.")
    tensors: dict[str, torch.Tensor] = {}
    for position, item in enumerate(updates):
        if item.a.ndim != 2 or item.b.ndim != 2 or item.b.shape[1] != item.a.shape[0]:
            raise UsageError(f"The factors of layer {item.layer} do not multiply.")
        parts = {"a": (item.a, torch.float32), "b": (item.b, torch.float32)}
        if item.keys is not None:
            # What is only to be protected needs no more than half precision.
            parts["k"] = (item.keys, torch.bfloat16)
        for letter, (tensor, dtype) in parts.items():
            if not bool(torch.isfinite(tensor).all()):
                raise NotFinite(f"The factors of layer {item.layer} are not finite.")
            # The clone keeps views of one storage apart, which safetensors refuses.
            plain = tensor.detach().to("cpu", dtype, copy=True).contiguous()
            part = "" if item.part == "output" else f".{item.part}"
            tensors[f"{position:04d}.{item.layer}{part}.{letter}"] = plain
    rank = max(item.a.shape[0] for item in updates)
    return save(tensors), list(dict.fromkeys(item.layer for item in updates)), rank


def unpack(blob: bytes) -> tuple[LowRankUpdate, ...]:
    """The updates that `pack` was given, in their order, on the CPU."""
    from safetensors.torch import load

    tensors = load(blob)
    found = []
    for stem in sorted({name[:-2] for name in tensors}):
        keys = tensors.get(f"{stem}.k")
        _, layer, *part = stem.split(".")
        found.append(
            LowRankUpdate(
                layer=int(layer),
                a=tensors[f"{stem}.a"],
                b=tensors[f"{stem}.b"],
                keys=None if keys is None else keys.float(),
                part=cast(Part, part[0]) if part else "output",
            )
        )
    return tuple(found)
