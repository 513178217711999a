"""A model and its tokenizer as a Hugging Face folder; knows no edits and where nothing came from.

Weights go out a shard at a time, so that at most one shard lies in memory twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from repair.checkpoint import quiet_library
from repair.errors import DiskFull

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHARD = "1GB"


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write ``model`` as it is now.

    Raises:
        DiskFull: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_library(progress=False):
            model.save_pretrained(folder, max_shard_size=SHARD)
            tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise DiskFull(
            f"The model cannot be written to {folder} ({error}).",
            "Free space or choose another folder.",
        ) from error
