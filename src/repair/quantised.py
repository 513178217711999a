"""Weights that bitsandbytes packed into 8 or 4 bits; knows the package, no edits and no text.

Imports bitsandbytes only when a model is to be quantised.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

from repair.errors import EnvironmentProblem, UsageError
from repair.types import Quantization

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
# Bits a weight of a linear map takes; 4-bit ones carry a scale for every 64 of them.
BITS = {"bnb_8bit": 8.0, "bnb_4bit": 4.5}
METHOD = "bitsandbytes"


def quantisation_config(name: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How the library is to quantise while it loads; None for none.

    Four bits are NF4 (Dettmers et al. 2023, arXiv 2305.14314), multiplied in ``dtype``.

    Raises:
        UsageError: no such quantisation.
        EnvironmentProblem: bitsandbytes is not installed.
    """
    if name not in QUANTIZATIONS:
        raise UsageError(f"There is no quantisation {name!r}.", f"Use {', '.join(QUANTIZATIONS)}.")
    if name == "none":
        return None
    require_bitsandbytes()
    from transformers import BitsAndBytesConfig

    factory: Any = BitsAndBytesConfig
    if name == "bnb_8bit":
        config: BitsAndBytesConfig = factory(load_in_8bit=True)
    else:
        config = factory(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return config


def require_bitsandbytes() -> None:
    """Make sure that packed weights can be loaded.

    Raises:
        EnvironmentProblem: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise EnvironmentProblem(
            "Quantised weights need the package bitsandbytes.",
            "Install it: pip install 'repair-unlearning[quant]'.",
        ) from error
    from bitsandbytes.nn import modules

    # On CPUs that multiply bfloat16 it would pack a layer's weights anew, in place, during the
    # first pass, for kernels of a further package; layers narrower than a block of 64 cannot be.
    vars(modules)["has_avx512bf16"] = lambda: False
    # It says at every layer of every pass that eight bits are multiplied in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def is_packed(module: nn.Module) -> bool:
    """Whether a linear map's weight is packed, so that W cannot be read or written in place."""
    library: Any = sys.modules.get(METHOD)
    if library is None:
        return False
    return isinstance(module, (library.nn.Linear4bit, library.nn.Linear8bitLt))
