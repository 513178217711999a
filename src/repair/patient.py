"""The patient: one causal language model, and the only owner of its weights.

Knows how to ask the model and how to put edits on its MLP outputs. Does not know why an
edit is made, what it forgets, or where edits are kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TextIteratorStreamer

from repair.architectures import MlpMap, find_mlp_outputs
from repair.checkpoint import choose_device, find_checkpoint
from repair.decoding import Decoder, Memory
from repair.errors import ExportUnsupported, UsageError
from repair.gates import find_gates
from repair.pictures import Picture
from repair.prompts import Prompts
from repair.saving import save_model
from repair.sight import Sight
from repair.types import Edit, LowRankUpdate, Messages, Part, Quantization
from repair.weights import EditableWeights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_UNPACKED = "Load it without --quantization: the same edits then go into the full weights."


class Patient:
    """A model that can be asked and edited.

    Weights are always W₀ + Σ B A over the active edits: the sum is taken in fp32 and cast
    once, so leaving an edit out undoes it to the bit, and no edits give W₀ itself. The
    model's files are never written to.

    Args:
        model: a dense decoder-only model; it is set to evaluation without gradients.
        tokenizer: the model's own.
        name: what to call the model.
        content_hash: identifies the untouched weights; computed from them if not given.
        sight: how the model takes pictures in; None reads text alone.

    Raises:
        ModelNotEditable: the model has no MLP outputs that can take an edit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "model",
        content_hash: str | None = None,
        sight: Sight | None = None,
    ) -> None:
        self.layers: tuple[MlpMap, ...] = find_mlp_outputs(model)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.source = name
        self.revision: str | None = None
        self.folder: Path | None = None  # Where it was loaded from; never written to.
        self.sight = sight
        self._prompts = Prompts(tokenizer, sight)
        self._content_hash = content_hash
        self._decoder = Decoder(
            model,
            (tokenizer.eos_token_id, self._prompts.end_of_turn),
            self._pad(),
            sight,
        )
        self._memory = Memory()
        self._remembers = 0
        outputs = {output.place: output for output in self.layers}
        # Every matrix that can take an edit; the gated pairs only where the model has them.
        self.maps = {**outputs, **find_gates(model, self.layers)}
        self._weights = EditableWeights(self.maps)
        model.train(mode=False)
        model.requires_grad_(False)

    @classmethod
    def load(
        cls,
        path_or_id: str | Path | None = None,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        quantization: Quantization = "none",
    ) -> Patient:
        """Load the embedded model (None), a folder in Hugging Face format, or a Hub id.

        Args:
            path_or_id: None, a folder, or an id such as ``Qwen/Qwen2.5-0.5B-Instruct``.
            revision: branch, tag or commit of a Hub id.
            dtype: auto, float32, bfloat16 or float16; auto keeps the checkpoint's, except
                that a model under 1 GB runs in float32 on a CPU.
            device: auto, cpu, cuda or mps; auto takes CUDA, then MPS, then the CPU, and lays
                a model that does not fit there on all GPUs, main memory and disk.
            quantization: bnb_4bit or bnb_8bit pack the linear maps; edits lie beside them.

        Raises:
            ModelNotFound: no such model, broken files, or no causal language model.
            ModelNotEditable: foreign quantised weights, experts, or no MLP outputs.
            NotEnoughMemory: it will not fit.
        """
        checkpoint = find_checkpoint(path_or_id, revision)
        model, tokenizer = checkpoint.load(
            dtype, choose_device(device), quantization, spread=device == "auto"
        )
        patient = cls(
            model,
            tokenizer,
            name=checkpoint.name,
            content_hash=checkpoint.content_hash(),
            sight=checkpoint.sight(model, tokenizer),
        )
        patient.source, patient.revision = checkpoint.source, checkpoint.revision
        patient.folder = checkpoint.folder.resolve()
        return patient

    @property
    def device(self) -> torch.device:
        """Where token ids go in; layers may lie on other devices."""
        return self._decoder.device

    @property
    def quantised(self) -> bool:
        """Whether edits lie beside packed weights and cannot be merged into them."""
        return any(output.packed for output in self.layers)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model brings a chat template; without one, chats are plain text."""
        return self._prompts.has_chat_template

    @property
    def content_hash(self) -> str:
        """SHA-256 in hexadecimal that names the untouched weights, equal in every process."""
        if self._content_hash is None:
            self._content_hash = self._weights.digest(self.model.config.to_diff_dict())
        return self._content_hash

    # Asking

    def show(self, picture: Picture) -> str:
        """Show a picture; its reference may then stand in any message.

        Raises:
            UsageError: the model reads text alone.
        """
        if self.sight is None:
            raise UsageError(
                f"The model {self.name} reads text alone and cannot see a picture.",
                "Use --model vision, or another vision-language model.",
            )
        return self.sight.add(picture)

    def shown(self, reference: str) -> Picture:
        """The picture that a reference names.

        Raises:
            UsageError: no such picture was shown, or not lately.
        """
        found = None if self.sight is None else self.sight.picture(reference)
        if found is None:
            raise UsageError(f"There is no {reference[1:-1]} here.", "Show it again.")
        return found

    def prompt_ids(self, messages: Messages, prefix: str = "") -> list[int]:
        """Token ids up to where the answer begins, then those of ``prefix``.

        Raises:
            UsageError: no messages, or roles that the chat template cannot take.
        """
        return self._prompts.prompt_ids(messages, prefix)

    def encode(self, messages: Messages, answer: str) -> tuple[list[int], int]:
        """Ids of prompt, answer and end of turn, and the index of the first answer token."""
        return self._prompts.encode(messages, answer)

    def user_opening(self) -> list[int]:
        """Ids up to where a user's first words would stand."""
        return self._prompts.user_opening()

    def reply(self, messages: Messages, *, prefix: str = "", max_new_tokens: int = 64) -> str:
        """The most likely answer, token by token.

        Returns only what comes after ``prefix`` (the prefix itself is not repeated),
        stripped, up to the end of the turn or ``max_new_tokens``.
        """
        return self.replies([messages], prefixes=[prefix], max_new_tokens=max_new_tokens)[0]

    def replies(
        self,
        batch: Sequence[Messages],
        *,
        prefixes: Sequence[str] | None = None,
        max_new_tokens: int = 64,
    ) -> list[str]:
        """The answers that ``reply`` gives, for many conversations in one batch."""
        starts = [""] * len(batch) if prefixes is None else prefixes
        if len(starts) != len(batch):
            raise ValueError(f"{len(batch)} conversations and {len(starts)} prefixes")
        if not batch:
            return []
        prompts = [
            self.prompt_ids(messages, prefix)
            for messages, prefix in zip(batch, starts, strict=True)
        ]
        if self._remembers:
            updates = [update for edit in self.active for update in edit.updates]
            said = self._memory.replies(self._decoder, updates, prompts, max_new_tokens)
        else:
            said = self.generate_ids(prompts, max_new_tokens)
        return [self._prompts.text(ids) for ids in said]

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within the block no reply is computed twice.

        What these very weights replied before is given again; what other weights replied, as
        those before an edit, is held against these in one forward pass, and only what they say
        otherwise is decoded. The replies are the same. Nobody but this class may change the
        weights meanwhile.
        """
        self._remembers += 1
        try:
            yield
        finally:
            self._remembers -= 1

    def sample(
        self,
        messages: Messages,
        n: int,
        *,
        temperature: float = 1.0,
        seed: int = 0,
        prefix: str = "",
        max_new_tokens: int = 64,
    ) -> list[str]:
        """``n`` answers drawn from the model's own distribution; equal for an equal seed.

        Neither the caller's random state nor the checkpoint's own sampling advice matters.
        """
        if n < 1 or temperature <= 0:
            raise UsageError("Sampling needs n of at least 1 and a temperature above 0.")
        prompt = self.prompt_ids(messages, prefix)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            drawn = self.generate_ids(
                [prompt] * n, max_new_tokens, do_sample=True, temperature=temperature, top_k=0
            )
        return [self._prompts.text(ids) for ids in drawn]

    def stream(
        self, messages: Messages, *, prefix: str = "", max_new_tokens: int = 512
    ) -> Iterator[str]:
        """Pieces of the answer that ``reply`` gives, as they come.

        The model stops early when the caller stops iterating.
        """
        prompt = self.prompt_ids(messages, prefix)
        streamer: Any = TextIteratorStreamer(
            self.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        stop = threading.Event()

        def stopped(ids: Tensor, _scores: Tensor, **_: Any) -> Tensor:
            return torch.full((len(ids),), stop.is_set(), dtype=torch.bool, device=ids.device)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(
                self.generate_ids, [prompt], max_new_tokens, streamer=streamer, stop=stopped
            )
            future.add_done_callback(lambda _: streamer.end())
            text = ""
            try:
                for piece in streamer:
                    shown = len(text)
                    text = self._prompts.cut((text + piece).lstrip())
                    if len(text) > shown:
                        yield text[shown:]
                    elif piece.strip():
                        break
            finally:
                stop.set()
            future.result()

    def forward(self, ids: Sequence[Sequence[int]], *, grad: bool = False) -> Tensor:
        """Logits (b × t × V, fp32) of sequences padded on the right to the longest, t.

        ``grad`` lets gradients reach what hooks put in; the weights never get any.

        Raises:
            ValueError: no sequences, or an empty one.
            UsageError: a sequence is longer than the model reads.
        """
        return self._decoder.logits(ids, grad=grad).float()

    def generate_ids(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        streamer: Any = None,
        stop: Any = None,
        steer: Any = None,
        **sampling: Any,
    ) -> list[list[int]]:
        """The ids generated after each prompt, up to and without the end of the turn."""
        return self._decoder.generate(
            prompts, max_new_tokens, streamer=streamer, stop=stop, steer=steer, **sampling
        )

    def _pad(self) -> int:
        """Any id does, since padding is masked; the tokenizer's own where it has one."""
        for index in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(index, int):
                return index
        return 0

    @property
    def context(self) -> int | None:
        """How many tokens the model reads, None when it does not say."""
        return self._decoder.context

    # Editing

    @property
    def active(self) -> tuple[Edit, ...]:
        """The edits that the weights carry now, by id."""
        return self._weights.active

    def original(self, layer: int, part: Part = "output") -> Tensor:
        """W₀ of one matrix (out × in), in the model's type; not to be written to."""
        return self._weights.original((layer, part))

    def apply(self, edits: Sequence[Edit]) -> None:
        """Set the weights to W₀ + Σ B A over exactly these edits, summed by id in fp32.

        Only layers whose updates changed are touched. On any failure nothing has changed.

        Raises:
            NotFinite: a factor or a resulting weight is NaN or infinite.
            ValueError: an id twice, a layer that is not there, or factors of wrong shape.
        """
        self._weights.apply(edits)

    def trial(self, updates: Sequence[LowRankUpdate]) -> AbstractContextManager[None]:
        """The active edits and one tentative edit after them, for the length of a block.

        The state before is restored at the end and on an exception, unless the block
        called ``apply`` itself. Raises what ``apply`` raises.
        """
        return self._weights.trial(updates)

    def without_edits(self) -> AbstractContextManager[None]:
        """The untouched model for the length of a block; its edits are put back at the end."""
        return self._weights.untouched()

    # Saving

    def save_adapter(self, folder: str | Path) -> None:
        """Write the active edits as a PEFT LoRA folder.

        Raises:
            UsageError: no edit is active.
            DiskFull: the folder cannot be written.
        """
        from repair.adapter import save_peft

        save_peft(self, self.active, folder)

    def save_merged(self, folder: str | Path) -> None:
        """Write the edited model and its tokenizer as a Hugging Face folder.

        Raises:
            UsageError: the folder is the one that the model was loaded from.
            ExportUnsupported: the weights are packed.
            DiskFull: the folder cannot be written.
        """
        folder = Path(folder)
        if self.quantised:
            raise ExportUnsupported("Quantised weights cannot be merged.", _UNPACKED)
        if self.folder is not None and folder.resolve() == self.folder:
            raise UsageError("The model's own folder is never written to.", "Name another one.")
        save_model(self.model, self.tokenizer, folder)
