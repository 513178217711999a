"""From a folder or a Hub id to a model and its tokenizer; knows nothing of edits or chats.

Reads model files and never writes to them. Every failure is one sentence with a remedy.
"""

from __future__ import annotations

import atexit
import hashlib
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils import logging as library_log

from repair.architectures import refuse_quantised
from repair.errors import EnvironmentProblem, ModelNotFound, NotEnoughMemory, UsageError
from repair.memory import (
    Weights,
    must_spread,
    read_weights,
    require_memory,
    room_of_devices,
    weight_files,
)
from repair.quantised import BITS, quantisation_config, require_bitsandbytes
from repair.sight import Sight, read_processor
from repair.types import Quantization

if TYPE_CHECKING:
    from transformers import (
        BitsAndBytesConfig,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

EMBEDDED = Path(__file__).with_name("embedded")
# The embedded model that sees, and what --model calls it.
VISION, EMBEDDED_VISION = "vision", Path(__file__).with_name("embedded_vision")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SMALL_BYTES = 1_000_000_000
_DESCRIPTION_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
_AS_IT_IS = "Leave --quantization out; it is loaded as it is."
_AGAIN = "Copy or download the model again."
# What the libraries raise on files that are missing, truncated, or not what they claim.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    RuntimeError,
    ZeroDivisionError,
    SafetensorError,
    StrictDataclassError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class Checkpoint:
    """A model's files, found and not yet read.

    ``name`` is what the user is shown; ``source`` what other programs can load it from.
    """

    folder: Path
    name: str
    source: str
    revision: str | None = None

    def content_hash(self) -> str:
        """SHA-256 in hexadecimal over the configuration and the weight files' bytes."""
        total = hashlib.sha256()
        for file in (self.folder / "config.json", *weight_files(self.folder)):
            total.update(_file_digest(file))
        return total.hexdigest()

    def load(
        self,
        dtype: str,
        device: torch.device,
        quantization: Quantization = "none",
        *,
        spread: bool = False,
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Read the model onto ``device`` and its tokenizer.

        ``spread`` lays a model that ``device`` cannot hold on all devices, main memory and disk.

        Raises:
            ModelNotFound: files are missing, broken, or no causal language model.
            ModelNotEditable: the weights are quantised by another package than bitsandbytes.
            NotEnoughMemory: the estimate, or the device itself, says that it will not fit.
            UsageError: no such type or quantisation, or the weights are quantised already.
            EnvironmentProblem: bitsandbytes is needed and not installed.
        """
        config = self._config()
        packed = getattr(config, "quantization_config", None) is not None
        if packed and quantization != "none":
            raise UsageError(f"The model {self.name} is quantised already.", _AS_IT_IS)
        if packed:
            require_bitsandbytes()
        weights = read_weights(self.folder)
        if not weights.counts:
            raise ModelNotFound(f"The model {self.name} has no weight files.", _AGAIN)
        chosen = choose_dtype(dtype, weights, device)
        quantise = quantisation_config(quantization, chosen)
        # Packed weights are made where they stay, on one device.
        spread = spread and not packed and quantise is None
        spread = spread and must_spread(weights, chosen, device)
        if not spread:
            require_memory(weights, chosen, device, 8.0 if packed else BITS.get(quantization))
        with quiet_library(progress=weights.bytes >= _SMALL_BYTES):
            tokenizer = self._tokenizer()
            return self._model(config, chosen, None if spread else device, quantise), tokenizer

    def _config(self) -> PretrainedConfig:
        if not (self.folder / "config.json").is_file():
            raise ModelNotFound(
                f"The model {self.name} has no config.json.",
                "Give a folder in Hugging Face format or a model id of the Hub.",
            )
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(
                self.folder, local_files_only=True
            )
        except _BROKEN as error:
            raise self._broken("configuration", error) from error
        if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not _sees(config):
            raise ModelNotFound(
                f"The model {self.name} is no causal language model ({config.model_type}).",
                "Use a model that generates text.",
            )
        refuse_quantised(config)
        return config

    def _model(
        self,
        config: PretrainedConfig,
        dtype: torch.dtype,
        device: torch.device | None,
        quantise: BitsAndBytesConfig | None,
    ) -> PreTrainedModel:
        """The model on one device, or (None) laid out over all by accelerate."""
        factory: Any = AutoModelForImageTextToText if _sees(config) else AutoModelForCausalLM
        # Packed weights are made where they stay.
        packed = quantise is not None or getattr(config, "quantization_config", None) is not None
        how: dict[str, Any] = {"device_map": {"": device}} if packed else {}
        if quantise is not None:
            how["quantization_config"] = quantise
        if device is None:
            how = _layout()
        try:
            model, info = factory.from_pretrained(
                self.folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
                **how,
            )
            moved: PreTrainedModel = model if packed or device is None else model.to(device)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise NotEnoughMemory(
                f"The model {self.name} does not fit on {device or 'all devices'}.",
                "Use a smaller model.",
            ) from error
        except _BROKEN as error:
            raise self._broken("weights", error) from error
        # The library fills what a checkpoint lacks with random numbers and carries on.
        absent = sorted(info["missing_keys"])
        if absent:
            raise ModelNotFound(
                f"The model {self.name} lacks {len(absent)} weights, {absent[0]} among them.",
                _AGAIN,
            )
        return moved

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True
            )
            usable = bool(tokenizer("a b").input_ids)
        except _BROKEN as error:
            raise self._broken("tokenizer", error) from error
        if not usable:
            raise ModelNotFound(f"The model {self.name} has no usable tokenizer files.", _AGAIN)
        return tokenizer

    def sight(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Sight | None:
        """How the model takes pictures in; None for a model of text alone.

        Raises:
            EnvironmentProblem: its image processor needs a package that is not installed.
            ModelNotFound: it has no usable image processor.
        """
        if not _sees(model.config):
            return None
        try:
            with quiet_library(progress=False):
                processor = read_processor(self.folder, model, tokenizer)
        except ImportError as error:
            raise EnvironmentProblem(
                f"The model {self.name} needs further packages to see.",
                "pip install 'repair-unlearning[vision]', or add torchvision.",
            ) from error
        except _BROKEN as error:
            raise self._broken("image processor", error) from error
        if getattr(processor, "image_token", None) is None:
            raise ModelNotFound(f"The model {self.name} has no image processor.", _AGAIN)
        if not getattr(tokenizer, "chat_template", None):
            tokenizer.chat_template = getattr(processor, "chat_template", None)
        return Sight(model, processor)

    def _broken(self, part: str, error: BaseException) -> ModelNotFound:
        detail = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return ModelNotFound(
            f"The {part} of {self.name} cannot be read ({detail[:160].rstrip('. :')}).", _AGAIN
        )


def _sees(config: PretrainedConfig) -> bool:
    """Whether the model takes pictures beside text."""
    return config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def find_checkpoint(path_or_id: str | Path | None, revision: str | None = None) -> Checkpoint:
    """The files of the embedded model (None), of a folder, or of a Hub id.

    A Hub id is fetched through the Hub's client, which respects ``HF_HOME``,
    ``HF_HUB_OFFLINE`` and ``HF_TOKEN``.

    Raises:
        ModelNotFound: there is no such model, or it cannot be fetched.
    """
    if path_or_id is None or (path_or_id == VISION and not Path(VISION).exists()):
        folder, name = (EMBEDDED, "embedded") if path_or_id is None else (EMBEDDED_VISION, VISION)
        if not (folder / "config.json").is_file():
            raise ModelNotFound(
                f"The {name} model is missing from this installation.",
                "Reinstall the package, or name another model with --model.",
            )
        return Checkpoint(folder, name, str(folder))
    folder = Path(path_or_id).expanduser()
    try:
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except OSError as error:
        raise ModelNotFound(
            f"There is no model folder {str(path_or_id)[:80]} ({error.strerror}).",
            "Check the name and the folder's permissions.",
        ) from error
    if is_folder:
        return Checkpoint(folder, str(path_or_id), str(folder.resolve()))
    text = str(path_or_id)
    parts = text.split("/")
    if is_file or isinstance(path_or_id, Path) or len(parts) > 2 or parts[0] in ("~", "."):
        raise ModelNotFound(
            f"There is no model folder {text}.",
            "Give a folder in Hugging Face format or a model id of the Hub.",
        )
    return Checkpoint(_fetch(text, revision), text, text, revision)


def _fetch(model_id: str, revision: str | None) -> Path:
    """The local snapshot of a Hub id; pickled weights only where there are no others."""
    try:
        for pattern in ("model*.safetensors", "pytorch_model*.bin"):
            folder = Path(
                snapshot_download(
                    model_id, revision=revision, allow_patterns=[*_DESCRIPTION_FILES, pattern]
                )
            )
            if weight_files(folder):
                return folder
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"The model {model_id} is neither a folder here nor in the Hub's cache, "
            "and could not be fetched.",
            "Check the name and the connection, or give a model folder.",
        ) from error
    return folder


def choose_dtype(dtype: str, weights: Weights, device: torch.device) -> torch.dtype:
    """The type to load weights in.

    ``auto`` keeps the checkpoint's type, except for a small model on a CPU, which is
    faster and more exact in float32.

    Raises:
        UsageError: a type that is none of auto, float32, bfloat16, float16.
    """
    if dtype == "auto":
        small = weights.bytes < _SMALL_BYTES
        return torch.float32 if device.type == "cpu" and small else weights.dtype
    if dtype not in _DTYPES:
        raise UsageError(f"There is no type {dtype}.", f"Use auto, {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]


def choose_device(device: str) -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        UsageError: the name is no device.
        EnvironmentProblem: this machine does not have it.
    """
    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"There is no device {device}.", "Use auto, cpu, cuda, mps.") from error
    present = {
        "cpu": True,
        "mps": has_mps,
        "cuda": (chosen.index or 0) < torch.cuda.device_count(),
    }
    if not present.get(chosen.type, False):
        raise EnvironmentProblem(f"This machine has no device {device}.", "Use --device auto.")
    return chosen


def _layout() -> dict[str, Any]:
    """How accelerate lays a model out over all devices, main memory and the disk."""
    # Weights of another type than the checkpoint's are rewritten there, not beside it.
    folder = tempfile.mkdtemp(prefix="repair-offload-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"device_map": "auto", "max_memory": room_of_devices(), "offload_folder": folder}


def _file_digest(file: Path) -> bytes:
    """SHA-256 of a file; the Hub's cache names large files by theirs, which spares reading."""
    stored = file.resolve()
    if stored.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", stored.name):
        return bytes.fromhex(stored.name)
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.digest()


@contextmanager
def quiet_library(*, progress: bool) -> Iterator[None]:
    """Keep the library's reports off standard error; its bar stays for long loading."""
    log: Any = library_log
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    if not progress:
        log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()
