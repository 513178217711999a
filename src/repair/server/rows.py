"""What differs between the rows of one batch: each row's own tokens, edits, ends and words.

Knows logits, hidden states and ids; knows no requests, no threads, no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from repair.patient import Patient
from repair.prompts import Prompts
from repair.types import LowRankUpdate, Place

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_MOST_SEED = 1 << 63


@dataclass
class Choice:
    """How one row's next token is chosen: the likeliest, or drawn with a generator of its own."""

    temperature: float
    top_p: float
    seed: int
    _dice: torch.Generator | None = field(default=None, init=False)

    def choose(self, logits: Tensor) -> int:
        """A token from logits (V): softmax at the temperature, cut to the nucleus ``top_p``."""
        odds = torch.softmax(logits.double().cpu() / max(self.temperature, 1e-4), dim=-1)
        order = odds.argsort(descending=True)
        before = odds[order].cumsum(0) - odds[order]
        odds[order[before >= max(self.top_p, 1e-9)]] = 0.0
        if self._dice is None:
            self._dice = torch.Generator().manual_seed(self.seed % _MOST_SEED)
        return int(torch.multinomial(odds, 1, generator=self._dice))


@contextmanager
def row_by_row(
    patient: Patient,
    choices: Sequence[Choice],
    updates: Sequence[Sequence[LowRankUpdate]],
) -> Iterator[None]:
    """Within the block each row of a batch is computed with its own edits and its own dice.

    An own edit acts as an adapter, o + h Aᵀ Bᵀ on its rows alone, so that many people share one
    batch; everyone's edits are in the weights.
    """
    handles = [patient.model.register_forward_hook(_drawing(choices))]
    for place, rows in _by_place(updates).items():
        handles.append(patient.maps[place].module.register_forward_hook(_adding(rows)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_place(
    updates: Sequence[Sequence[LowRankUpdate]],
) -> Mapping[Place, list[tuple[int, LowRankUpdate]]]:
    found: dict[Place, list[tuple[int, LowRankUpdate]]] = {}
    for row, own in enumerate(updates):
        for update in own:
            found.setdefault(update.place, []).append((row, update))
    return found


def _adding(rows: Sequence[tuple[int, LowRankUpdate]]) -> Any:
    def hook(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        changed = output.clone()
        for row, update in rows:
            a, b = update.a.to(output.device), update.b.to(output.device)
            changed[row] += (inputs[0][row].float() @ a.T @ b.T).to(output.dtype)
        return changed

    return hook


def _drawing(choices: Sequence[Choice]) -> Any:
    drawn = [(row, choice) for row, choice in enumerate(choices) if choice.temperature > 0]

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        # The caller takes the likeliest token; so the one that was drawn becomes it.
        last = output.logits[:, -1]
        for row, choice in drawn:
            token = choice.choose(last[row])
            last[row] = float("-inf")
            last[row, token] = 0.0
        return output

    return hook


class Text:
    """One row's ids as text that only ever grows, held back where it might still change."""

    def __init__(
        self, prompts: Prompts, ends: frozenset[int], most: int, stop: Sequence[str]
    ) -> None:
        self._prompts, self._ends, self._most, self._stop = prompts, ends, most, stop
        self._ids: list[int] = []
        self._shown = 0
        self.finish = ""

    @property
    def tokens(self) -> int:
        """How many tokens were generated, the one that ends the turn not counted."""
        return len(self._ids)

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        if token in self._ends:
            self.finish = "stop"
        else:
            self._ids.append(token)
            if len(self._ids) >= self._most:
                self.finish = "length"
        text = self._prompts.text(self._ids)
        cuts = [at for at in (text.find(word) for word in self._stop) if at >= 0]
        if cuts:
            text, self.finish = text[: min(cuts)], "stop"
        elif not self.finish:
            text = self._certain(text)
        fresh = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return fresh

    def _certain(self, text: str) -> str:
        """Without half a letter, and without what may be the beginning of a stop word."""
        text = text.rstrip(_BROKEN)
        held = max(
            (n for word in self._stop for n in range(1, len(word)) if text.endswith(word[:n])),
            default=0,
        )
        return text[: len(text) - held]
