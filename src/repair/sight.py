"""How one vision-language model takes pictures in: tokens and tensors; no chats, no edits.

A picture fills several places of a sequence, all with the model's one image token. Here they
bear the number of their picture instead, far above any vocabulary, so that a sequence of ids
alone says which pictures it shows. Everything that handles ids (rows, drafts, memory) needs to
know no more; on the way into the model the numbers become the image token and the pixels.
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoImageProcessor, AutoProcessor

from repair.errors import UsageError
from repair.pictures import REFERENCE, Picture

# Ids from here on are pictures' numbers.
PICTURE = 1 << 40
# Pictures that are remembered; one operation shows some twenty.
_REMEMBERED = 512
_TEXT_ONLY = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True)
class _Shown:
    """One picture as a model takes it: its ids, and the tensors that go beside them."""

    picture: Picture
    ids: tuple[int, ...]
    tensors: dict[str, Tensor]

    @property
    def places(self) -> int:
        return sum(index >= PICTURE for index in self.ids)


class Sight:
    """The pictures that one model was shown.

    Args:
        model: a vision-language model of Transformers.
        processor: its own, with an image processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.processor = processor
        self.token: str = processor.image_token
        config = model.config
        known = getattr(config, "image_token_id", None)
        self.image_id = int(config.image_token_index if known is None else known)
        self._types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
        self._shown: OrderedDict[str, tuple[int, _Shown]] = OrderedDict()
        self._count = 0
        # A server's threads share what was shown.
        self._lock = threading.Lock()

    def add(self, picture: Picture) -> str:
        """Take a picture in; its reference, which may then stand in any message."""
        with self._lock:
            return self._add(picture)

    def _add(self, picture: Picture) -> str:
        if picture.name in self._shown:
            self._shown.move_to_end(picture.name)
        else:
            made = self.processor(text=[self.token], images=[[picture.image]], return_tensors="pt")
            number = PICTURE + self._count
            ids = self._bare(made["input_ids"][0].tolist())
            shown = tuple(number if index == self.image_id else index for index in ids)
            tensors = {n: t for n, t in made.items() if n not in _TEXT_ONLY}
            self._shown[picture.name] = (number, _Shown(picture, shown, tensors))
            self._count += 1
            if len(self._shown) > _REMEMBERED:
                self._shown.popitem(last=False)
        return picture.reference

    def picture(self, reference: str) -> Picture | None:
        """The picture that a reference names, None where it was not shown."""
        known = self._shown.get(reference[9:-1])
        return None if known is None else known[1].picture

    def _bare(self, ids: list[int]) -> list[int]:
        """Without the begin and end tokens that a tokenizer puts around every text."""
        tokenizer = self.processor.tokenizer
        around = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
        while ids and ids[0] in around:
            ids = ids[1:]
        while ids and ids[-1] in around:
            ids = ids[:-1]
        return ids

    def parts(self, content: str) -> list[dict[str, str]]:
        """A message's content as templates of such models read it, pictures apart from words."""
        found: list[dict[str, str]] = []
        for piece, is_picture in self._pieces(content):
            if is_picture:
                found.append({"type": "image"})
            elif piece.strip():
                found.append({"type": "text", "text": piece.strip()})
        return found or [{"type": "text", "text": ""}]

    def marked(self, content: str) -> str:
        """A message's content with the image token where a picture stands."""
        return "".join(self.token if known else piece for piece, known in self._pieces(content))

    def names(self, contents: Sequence[str]) -> list[str]:
        """The pictures in messages, in order, as often as they stand there."""
        return [piece[9:-1] for text in contents for piece, known in self._pieces(text) if known]

    def _pieces(self, content: str) -> Iterator[tuple[str, bool]]:
        """Stretches of a text; those that are the reference of a picture seen are marked."""
        start = 0
        for match in REFERENCE.finditer(content):
            if match[0][9:-1] in self._shown:
                yield content[start : match.start()], False
                yield match[0], True
                start = match.end()
        yield content[start:], False

    def ids(
        self, text: str, names: Sequence[str], tokenise: Callable[[str], list[int]]
    ) -> list[int]:
        """Token ids of a rendered conversation with the pictures where they stand.

        Raises:
            UsageError: the template left a picture out, or the words hold the image token.
        """
        pieces = text.split(self.token)
        if len(pieces) != len(names) + 1:
            raise UsageError(
                f"The model's chat template made {len(pieces) - 1} places for {len(names)} "
                "pictures.",
                f"Leave {self.token} out of the text, and use a model whose template takes "
                "pictures.",
            )
        found = tokenise(pieces[0]) if pieces[0] else []
        for name, piece in zip(names, pieces[1:], strict=True):
            found += self._shown[name][1].ids
            found += tokenise(piece) if piece else []
        return found

    def inputs(
        self, rows: Sequence[Sequence[int]], tokens: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Padded ids (b × t) as the model reads them, and the tensors of their pictures."""
        shown = tokens >= PICTURE
        if not shown.any():
            return tokens, {}
        by_row = [list(self._pictures(row)) for row in rows]
        beside = _joined(by_row)
        extra = {
            name: value.to(tokens.device, dtype if value.is_floating_point() else value.dtype)
            for name, value in beside.items()
        }
        if self._types:
            extra["mm_token_type_ids"] = shown.int()
        return tokens.masked_fill(shown, self.image_id), extra

    def _pictures(self, row: Sequence[int]) -> Iterator[_Shown]:
        """The pictures of one sequence in order, one for each time it stands there."""
        with self._lock:
            by_number = dict(self._shown.values())
        places = [index for index in row if index >= PICTURE]
        while places:
            shown = by_number[places[0]]
            yield shown
            places = places[shown.places :]


class GridProcessor:
    """A processor for models that cut pictures into a grid of patches, Qwen2-VL's family.

    The library's own also reads films and does not start without torchvision; pictures do not
    need it.
    """

    def __init__(self, images: Any, tokenizer: Any, image_token: str) -> None:
        self.images, self.tokenizer, self.image_token = images, tokenizer, image_token

    def __call__(self, text: list[str], images: list[list[Any]], **how: Any) -> dict[str, Tensor]:
        """Tensors of one picture, and the ids of a text in which it stands once."""
        made = dict(self.images(images=images[0], **how))
        # Transformers' rule: patches of all frames, merged by squares.
        places = int(made["image_grid_thw"][0].prod()) // self.images.merge_size**2
        whole = text[0].replace(self.image_token, self.image_token * places)
        ids = self.tokenizer(whole, add_special_tokens=False)["input_ids"]
        return {**made, "input_ids": torch.tensor([ids])}


def read_processor(folder: Path, model: Any, tokenizer: Any) -> Any:
    """The library's processor of a checkpoint, or what of it serves without torchvision.

    Raises:
        ImportError, AttributeError: it needs a package that is not installed.
        OSError, ValueError: there is none, or its files are broken.
    """
    factory: Any = AutoProcessor
    try:
        return factory.from_pretrained(folder, local_files_only=True)
    except (ImportError, AttributeError):
        of_images: Any = AutoImageProcessor
        images = of_images.from_pretrained(folder, local_files_only=True)
        if not hasattr(images, "merge_size"):
            raise
        token = tokenizer.convert_ids_to_tokens(model.config.image_token_id)
        return GridProcessor(images, tokenizer, str(token))


def _joined(rows: Sequence[Sequence[_Shown]]) -> dict[str, Tensor]:
    """The tensors of all pictures of a batch, as the model takes them.

    Some models (Llava, Qwen2-VL) take one long row of pictures or patches. Others (Idefics3,
    SmolVLM) take as many for each sequence, where pictures of zeros are no pictures.
    """
    first = next(shown for row in rows for shown in row)
    pixels = first.tensors["pixel_values"]
    if pixels.dim() != 5:
        return {
            name: torch.cat([shown.tensors[name] for row in rows for shown in row])
            for name in first.tensors
        }
    joined: dict[str, Tensor] = {}
    for name, example in first.tensors.items():
        of_rows = [
            torch.cat([example[:, :0], *(shown.tensors[name] for shown in row)], dim=1)
            for row in rows
        ]
        most = max(value.shape[1] for value in of_rows)
        joined[name] = torch.cat(
            [
                pad(value, (0, 0) * (value.dim() - 2) + (0, most - value.shape[1]))
                for value in of_rows
            ]
        )
    return joined
