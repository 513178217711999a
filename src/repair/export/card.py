"""The card beside an export: what was changed, under which tests, and what it does not hide.

Knows receipts and formats; holds numbers and keyed hashes, never what was forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What loads a folder of each format; the card names it in its first lines.
LIBRARIES = {"peft": "peft", "merged": "transformers", "gguf": "gguf"}
_TAGS = "tags: [machine-unlearning, repair]"
_WARNING = """## Before you pass this on

- **Base and adapter together reveal what was forgotten.** Whoever has both can compare the
  model before and after, or leave the adapter out. Publish one of them at most, or the merged
  model alone; the untouched base model is public wherever it always was.
- The tests above are the ones that were run: *no longer gives it away under these tests*. They
  are no proof of erasure. Fine-tuning on related text, or quantising to few bits, can bring
  back what an edit took away. Verify the model as it is served.
- `canaries.json` holds encrypted questions and keyed hashes of answers. Without the file `key`
  of the home that made the edits neither can be read; keep that key where it is. What the file
  shows: how many edits and questions there are, how many words each answer has, and which
  answers share words. Its other questions are general ones, in plain text."""

_USE = {
    "peft": """```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({source!r})
model = PeftModel.from_pretrained(base, "this folder")
```

Alpha equals the rank, so the scale is 1. A server must admit rank {rank}
(vLLM: `--max-lora-rank`). Do not use merge and unmerge as undo; leave the adapter out.""",
    "merged": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this folder")
tokenizer = AutoTokenizer.from_pretrained("this folder")
```""",
    "gguf": """```sh
llama-server -m base.gguf --lora adapter.gguf --jinja
```

`base.gguf` is the untouched model: without `adapter.gguf` it knows everything.""",
}


def write(
    *,
    format: str,
    name: str,
    source: str,
    rank: int,
    exact_rank: int,
    error: float,
    receipts: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> str:
    """The card's Markdown. ``receipts`` are those of ``Ledger.receipt``, numbers only."""
    parts = [_front(format, source), f"# {name}, edited", _changed(format, rank, exact_rank, error)]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    if receipts:
        parts += ["## Edits and their tests", _table(receipts), _LEGEND]
    parts += ["## How to load it", _USE[format].format(source=source, rank=rank), _WARNING]
    parts += ["## How to verify it", _VERIFY]
    return "\n\n".join(parts) + "\n"


_LEGEND = (
    "Recall is ROUGE-L recall of the answer in the model's greedy reply, before → after, over n "
    "probes. *Neighbours* are other facts about the same subject, *retain* general questions. "
    "Targets are keyed hashes."
)
_VERIFY = """Serve this model, then, with the home that made the edits:

```sh
repair verify --endpoint http://localhost:8000/v1 --canaries "this folder"
```"""


def format_of(text: str) -> str | None:
    """The format of the export whose card this is; None for any other text."""
    starts = {f: f"---\nlibrary_name: {library}\n{_TAGS}" for f, library in LIBRARIES.items()}
    return next((format for format, start in starts.items() if text.startswith(start)), None)


def _front(format: str, source: str) -> str:
    lines = ["---", f"library_name: {LIBRARIES[format]}", _TAGS]
    if "/" in source and not source.startswith(("/", ".")):
        lines.append(f"base_model: {source}")
    return "\n".join([*lines, "---"])


def _changed(format: str, rank: int, exact_rank: int, error: float) -> str:
    where = "the linear maps of each edited layer's MLP; nothing else was changed"
    if format == "merged":
        return f"Changed: {where}. The weights are W₀ + Σ B A, summed in fp32 and cast once."
    if rank == exact_rank:
        return f"Changed: {where}. The edits are concatenated, which is exact; rank {rank}."
    return (
        f"Changed: {where}. The edits add up to rank {exact_rank} and were recompressed in fp32 "
        f"to rank {rank}; of no layer's change is more than {error:.2%} lost (Frobenius norm). "
        "The tests below were run before that: verify this export itself."
    )


_MEASURES = ("recall", "paraphrase", "prefix", "neighbours", "retain")


def _table(receipts: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| edit | kind | targets | layers | rank | strength | " + " | ".join(_MEASURES)]
    lines[0] += " | KL, nats |"
    lines.append("|---" * (len(_MEASURES) + 7) + "|")
    for receipt in receipts:
        measures = receipt.get("measures", {})
        cells = [
            str(receipt["id"]),
            str(receipt["kind"]),
            ", ".join(receipt["targets"]) or "–",
            str(len(receipt["layers"])),
            str(receipt["rank"]),
            f"{receipt['strength']:g}",
            *(_measure(measures.get(name)) for name in _MEASURES),
            f"{measures['kl']:.2g}" if "kl" in measures else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _measure(change: Any) -> str:
    if not isinstance(change, Mapping) or "before" not in change:
        return "–"
    return f"{change['before']:.2f} → {change['after']:.2f} (n {change.get('n', 0)})"
