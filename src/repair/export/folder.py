"""One export from beginning to end: the format's files, the canaries and the card.

Knows which parts a folder gets. Does not know how a format looks inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repair.adapter import Composed, composed, save_peft
from repair.errors import DiskFull, UsageError
from repair.export import canaries, card
from repair.plan import MAX_ANSWER_TOKENS
from repair.types import Message, Place

if TYPE_CHECKING:
    from repair.ledger import Ledger
    from repair.patient import Patient

FORMATS = ("peft", "merged", "gguf")
CARD = "README.md"


def export(
    patient: Patient,
    folder: str | Path,
    format: str = "peft",
    *,
    ledger: Ledger | None = None,
    max_rank: int | None = None,
) -> dict[str, Any]:
    """Write the active edits for other programs, with canaries and a card.

    Args:
        format: peft (adapter), merged (a whole Hugging Face folder) or gguf (base and adapter).
        ledger: where the edits' receipts and probes come from; None leaves them out.
        max_rank: recompress the adapter past this rank; not for merged.

    Returns:
        ``{"path", "format", "edits", "rank", "exact_rank", "error", "canaries"}``.

    Raises:
        UsageError: no such format, no active edit, or a rank limit for merged weights.
        ExportUnsupported: the format cannot hold this model.
        DiskFull: the folder cannot be written.
    """
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}.", f"Choose {', '.join(FORMATS)}.")
    if not patient.active:
        raise UsageError("There is no active edit to export.", "Forget something first.")
    if format == "merged" and max_rank is not None:
        raise UsageError("A merged model has no rank to limit.", "Leave --max-rank out.")
    folder, notes = Path(folder), []
    _require_free(patient, format, folder)
    if format == "peft":
        whole = save_peft(patient, patient.active, folder, max_rank=max_rank)
    else:
        whole = composed(patient.active, max_rank)
        if format == "merged":
            patient.save_merged(folder)
        else:
            notes = _gguf(patient, whole.factors, folder)
    travelling = _save_canaries(patient, ledger, folder) if ledger is not None else 0
    _write(folder / CARD, _card(patient, format, whole, ledger, notes))
    return {
        "path": str(folder),
        "format": format,
        "edits": [edit.id for edit in patient.active],
        "rank": whole.rank,
        "exact_rank": whole.exact_rank,
        "error": whole.error,
        "canaries": travelling,
    }


def _save_canaries(patient: Patient, ledger: Ledger, folder: Path) -> int:
    """Write the questions that travel along; how many they are."""
    found = canaries.with_kept(
        canaries.of_active_edits(ledger), ledger.vault, lambda questions: _ask(patient, questions)
    )
    canaries.save(found, ledger.vault, patient.content_hash, folder)
    return sum(map(len, found.edits.values())) + len(found.kept)


def _card(
    patient: Patient, format: str, whole: Composed, ledger: Ledger | None, notes: list[str]
) -> str:
    receipts = [ledger.receipt(edit.id) for edit in patient.active] if ledger is not None else []
    if patient.quantised:
        notes = [*notes, "Exported from a quantised base; on another one, verify again."]
    return card.write(
        format=format,
        name=Path(patient.name).name or patient.name,
        # A path of this machine is nobody's business but its own.
        source="path/to/the/base" if Path(patient.source).exists() else patient.source,
        rank=whole.rank,
        exact_rank=whole.exact_rank,
        error=whole.error,
        receipts=receipts,
        notes=notes,
    )


def _require_free(patient: Patient, format: str, folder: Path) -> None:
    """Make sure that nobody's files are in the way; an export of the same format is replaced.

    Raises:
        UsageError: the folder is the model's own, holds a README.md that is no export's, or
            an export of another format, whose files would stay among the new ones.
    """
    if patient.folder is not None and folder.resolve() == patient.folder:
        raise UsageError("The model's own folder is never written to.", "Name another one.")
    try:
        found = card.format_of((folder / CARD).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return
    if found != format:
        other = f"an export as {found}" if found else f"a {CARD} that is no export's"
        raise UsageError(f"The folder {folder} holds {other}.", "Name an empty folder.")


def _gguf(patient: Patient, factors: dict[Place, Any], folder: Path) -> list[str]:
    from repair.export.gguf_files import save_gguf

    tokens = save_gguf(patient, factors, folder)
    notes = [f"Text is split by llama.cpp's rule `{tokens.rule}`, tried on sample texts."]
    if not tokens.same_spaces:
        notes.append("Runs of several spaces become other tokens than in the original.")
    if tokens.space:
        notes.append(
            "This tokenizer sets a space before each text; the chat template does so here, and a "
            "prompt without the template has to begin with one."
        )
    return notes


def _ask(patient: Patient, questions: Sequence[str]) -> list[str]:
    batch: list[list[Message]] = [[{"role": "user", "content": question}] for question in questions]
    return patient.replies(batch, max_new_tokens=MAX_ANSWER_TOKENS)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiskFull(
            f"{path} cannot be written ({error}).", "Free space or choose another folder."
        ) from error
