"""Token ids in, token ids out: batches, one forward pass, generation, and drafts.

Knows one model and its special ids; no text, no chats, no edits. A draft is a reply that other
weights gave to the same prompt: one forward pass tells how far these weights agree with it, and
what they say instead (greedy speculative decoding, Leviathan et al. 2023, arXiv 2211.17192).
The replies are those of plain greedy decoding.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList

from repair.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from repair.sight import Sight

Ids = Sequence[int]

# The library's class has no annotations.
_GENERATION_CONFIG: Any = GenerationConfig
# Logits that a pass over drafts may hold: 2 GB in fp32.
_LOGITS = 1 << 29
# Padding, in tokens, that costs as much as one more call of a small model.
_WASTE = 48
# How often a draft that went wrong is followed by another guess before plain decoding.
_GUESSES = 3
# States of the weights whose replies are kept: before an edit, and some trials of it.
_STATES = 4
# Replies kept of one state, enough for some hundred operations.
_REPLIES = 20_000


class Decoder:
    """Runs one model on token ids.

    Args:
        model: in evaluation mode.
        ends: ids that end a reply, beside those that the model itself names.
        pad: any id does, since padding is masked.
        sight: turns the numbers of pictures among the ids into what the model takes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ends: Sequence[int | None],
        pad: int,
        sight: Sight | None = None,
    ) -> None:
        self.model = model
        self.sight = sight
        self.pad = pad
        self._own_ends = tuple(ends)
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._generating = threading.RLock()

    @property
    def context(self) -> int | None:
        """How many tokens the model reads, None when it does not say."""
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def ends(self) -> set[int]:
        """The ids that end a reply."""
        known = getattr(self.model.generation_config, "eos_token_id", None)
        ids = [*(known if isinstance(known, list) else [known]), *self._own_ends]
        return {index for index in ids if isinstance(index, int)}

    def batch(self, ids: Sequence[Ids], *, left: bool) -> tuple[Tensor, Tensor]:
        """Ids and attention mask (b × t, int64), padded on one side.

        Raises:
            ValueError: no sequences, or an empty one.
            UsageError: a sequence is longer than the model reads.
        """
        if not ids or not all(ids):
            raise ValueError("every sequence needs at least one token")
        length = max(len(row) for row in ids)
        limit = self.context
        if limit is not None and length > limit:
            raise UsageError(
                f"The conversation has {length} tokens and the model reads at most {limit}.",
                "Shorten it.",
            )
        tokens = torch.full((len(ids), length), self.pad, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for index, row in enumerate(ids):
            place = slice(length - len(row), None) if left else slice(0, len(row))
            tokens[index, place] = torch.tensor(row, dtype=torch.long)
            mask[index, place] = 1
        return tokens.to(self.device), mask.to(self.device)

    def _shown(self, ids: Sequence[Ids], tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch as the model reads it, with what goes beside it where pictures are shown."""
        if self.sight is None:
            return tokens, {}
        return self.sight.inputs(ids, tokens, self.model.dtype)

    @property
    def device(self) -> torch.device:
        """Where token ids go in: the embedding's, also where the layers lie on several."""
        embedding: Any = self.model.get_input_embeddings()
        # Weights that accelerate keeps elsewhere are on no device until they are used.
        hook = getattr(embedding, "_hf_hook", None)
        where = getattr(hook, "execution_device", None)
        return torch.device(embedding.weight.device if where is None else where)

    def logits(self, ids: Sequence[Ids], *, last: int = 0, grad: bool = False) -> Tensor:
        """Logits (b × t × V) of sequences padded on the right to the longest, t.

        ``last`` above 0 asks for those of the last so many of the t places alone, which spares
        their product with the vocabulary elsewhere. ``grad`` lets gradients reach what hooks
        put in. Errors are those of ``batch``.
        """
        tokens, mask = self.batch(ids, left=False)
        tokens, beside = self._shown(ids, tokens)
        fewer = {"logits_to_keep": last} if last and self._keeps_logits else {}
        with torch.inference_mode(not grad):
            found: Tensor = self.model(
                input_ids=tokens,
                attention_mask=mask,
                use_cache=False,
                return_dict=True,
                **fewer,
                **beside,
            ).logits
        return found[:, -last:] if last else found

    def generate(
        self,
        prompts: Sequence[Ids],
        max_new_tokens: int,
        *,
        streamer: Any = None,
        stop: Any = None,
        steer: Any = None,
        **sampling: Any,
    ) -> list[list[int]]:
        """The ids generated after each prompt, up to and without the end of the turn."""
        tokens, mask = self.batch(prompts, left=True)
        limit = self.context
        room = max_new_tokens if limit is None else min(max_new_tokens, limit - tokens.shape[1])
        if room < 1:
            return [[] for _ in prompts]
        ends = self.ends
        config = _GENERATION_CONFIG(
            max_new_tokens=room,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self.pad,
            **{"do_sample": False, **sampling},
        )
        generator: Any = self.model
        tokens, beside = self._shown(prompts, tokens)
        with self._generating, self._plain_generation(), torch.no_grad():
            output = generator.generate(
                input_ids=tokens,
                attention_mask=mask,
                generation_config=config,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([stop] if stop else []),
                logits_processor=[steer] if steer else None,
                **beside,
            )
        rows: list[list[int]] = output[:, tokens.shape[1] :].tolist()
        return [
            row[: next((i for i, token in enumerate(row) if token in ends), len(row))]
            for row in rows
        ]

    @contextmanager
    def _plain_generation(self) -> Iterator[None]:
        """Leave out the checkpoint's own sampling advice (temperature, penalties, …).

        It would change the greedy answer, and warn about it.
        """
        advice = self.model.generation_config
        self.model.generation_config = _GENERATION_CONFIG()
        try:
            yield
        finally:
            self.model.generation_config = advice

    # Drafts

    def agreed(self, prompts: Sequence[Ids], drafts: Sequence[Ids]) -> list[tuple[int, int]]:
        """How many tokens of each draft greedy decoding gives, and the token it gives next.

        One forward pass over prompts and drafts; the next token may be one that ends the reply.
        """
        found: list[tuple[int, int]] = [(0, self.pad)] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(drafts[i]))
        for group in self._groups(order, prompts, drafts):
            rows = [[*prompts[i], *drafts[i]] for i in group]
            longest = max(map(len, rows))
            first = min(len(prompts[i]) for i in group) - 1
            said = self.logits(rows, last=longest - first).argmax(-1).tolist()
            for i, row in zip(group, said, strict=True):
                start = len(prompts[i]) - 1 - first
                now = row[start : start + len(drafts[i]) + 1]
                same = next(
                    (j for j, token in enumerate(drafts[i]) if token != now[j]), len(drafts[i])
                )
                found[i] = same, now[same]
        return found

    def _groups(
        self, order: Sequence[int], prompts: Sequence[Ids], drafts: Sequence[Ids]
    ) -> Iterator[list[int]]:
        """Batches of similar length whose logits fit."""
        vocabulary = self.model.config.get_text_config().vocab_size
        group: list[int] = []
        padding = longest = first = 0
        for i in order:
            before, longest = longest, len(prompts[i]) + len(drafts[i])
            padding += len(group) * (longest - before)
            first = min(first, len(prompts[i]))
            logits = (len(group) + 1) * (longest - first + 1) * vocabulary
            if group and (padding > _WASTE or logits > _LOGITS):
                yield group
                group = []
            if not group:
                padding, first = 0, len(prompts[i])
            group.append(i)
        if group:
            yield group

    def redraft(
        self,
        prompts: Sequence[Ids],
        drafts: Sequence[Ids],
        max_new_tokens: int,
        guess: Callable[[Ids], Ids | None] = lambda _: None,
    ) -> list[list[int]]:
        """What ``generate`` gives, from drafts: only what these weights say otherwise is decoded.

        Args:
            guess: how a reply may go on that begins with these tokens, None for no idea.
        """
        replies: list[list[int]] = [[] for _ in prompts]
        waiting: dict[int, Ids] = dict(enumerate(drafts))
        for _ in range(_GUESSES):
            waiting = self._follow(prompts, replies, waiting, max_new_tokens)
            guessed = {i: guess(replies[i]) for i in waiting}
            if not any(guessed.values()):
                break
            waiting = {i: draft or () for i, draft in guessed.items()}
        else:
            waiting = self._follow(prompts, replies, waiting, max_new_tokens)
        if waiting:
            room = max_new_tokens - min(len(replies[i]) for i in waiting)
            starts = [[*prompts[i], *replies[i]] for i in waiting]
            for i, rest in zip(waiting, self.generate(starts, room), strict=True):
                replies[i] = [*replies[i], *rest][:max_new_tokens]
        return replies

    def _follow(
        self,
        prompts: Sequence[Ids],
        replies: Sequence[list[int]],
        drafts: Mapping[int, Ids],
        max_new_tokens: int,
    ) -> dict[int, Ids]:
        """Add to the replies what greedy decoding gives of their drafts, and one token more.

        Returns the replies that have not ended, with nothing known of how they go on.
        """
        ends = self.ends
        waiting: dict[int, Ids] = {}
        starts = [[*prompts[i], *replies[i]] for i in drafts]
        shown = [draft[: max_new_tokens - len(replies[i])] for i, draft in drafts.items()]
        agreed = self.agreed(starts, shown)
        for i, draft, (same, token) in zip(drafts, shown, agreed, strict=True):
            replies[i].extend(draft[:same])
            if len(replies[i]) < max_new_tokens and token not in ends:
                replies[i].append(token)
                if len(replies[i]) < max_new_tokens:
                    waiting[i] = ()
        return waiting


@dataclass
class _State:
    """The replies of one state of the weights, which is the updates on it, in order."""

    updates: tuple[weakref.ref[Any], ...]
    replies: dict[tuple[int, ...], tuple[int, list[int]]] = field(default_factory=dict)

    def of(self, updates: Sequence[Any]) -> bool:
        return len(self.updates) == len(updates) and all(
            known() is update for known, update in zip(self.updates, updates, strict=True)
        )


class Memory:
    """Greedy replies by state of the weights, so that none is computed twice.

    A reply of the very same weights is given again; one of other weights serves as a draft.
    """

    def __init__(self) -> None:
        self._states: list[_State] = []
        self._lock = threading.Lock()

    def replies(
        self,
        decoder: Decoder,
        updates: Sequence[Any],
        prompts: Sequence[Ids],
        max_new_tokens: int,
    ) -> list[list[int]]:
        """What ``decoder.generate`` gives for weights that carry these updates."""
        with self._lock:
            state = self._state(updates)
            keys = [tuple(prompt) for prompt in prompts]
            found = {key: _known(state, key, max_new_tokens) for key in keys}
            for key, reply in found.items():
                if reply is not None:
                    state.replies.setdefault(key, (max_new_tokens, reply))
            drafts = {key: self._draft(key) for key, reply in found.items() if reply is None}
        for drafted in (True, False):
            asked = [key for key, draft in drafts.items() if (draft is not None) == drafted]
            if not asked:
                continue
            if drafted:
                old = [drafts[key] or [] for key in asked]
                said = decoder.redraft(asked, old, max_new_tokens, self._guess)
            else:
                said = decoder.generate(asked, max_new_tokens)
            found.update(zip(asked, said, strict=True))
            with self._lock:
                for key, reply in zip(asked, said, strict=True):
                    state.replies[key] = max_new_tokens, reply
        return [list(found[key] or ()) for key in keys]

    def _state(self, updates: Sequence[Any]) -> _State:
        """The state of these updates, now the latest."""
        state = next((known for known in self._states if known.of(updates)), None)
        if state is None:
            state = _State(tuple(weakref.ref(update) for update in updates))
        elif len(state.replies) > _REPLIES:
            state.replies.clear()
        self._states = [state, *(s for s in self._states if s is not state)][:_STATES]
        return state

    def _draft(self, prompt: tuple[int, ...]) -> list[int] | None:
        for state in self._states:
            if prompt in state.replies:
                return state.replies[prompt][1]
        return None

    def _guess(self, said: Ids) -> Ids | None:
        """How most replies went on that began like this."""
        start = list(said)
        tails = (
            tuple(reply[len(start) :])
            for state in self._states
            for _, reply in state.replies.values()
            if reply[: len(start)] == start and len(reply) > len(start)
        )
        return next((tail for tail, _ in Counter(tails).most_common(1)), None)


def _known(state: _State, prompt: tuple[int, ...], room: int) -> list[int] | None:
    """What this state replied to the prompt, or to a beginning of it that it went on from."""
    for given in range(0, min(len(prompt), room)):
        start = prompt[: len(prompt) - given]
        known = state.replies.get(start)
        if known is None:
            continue
        most, reply = known
        if tuple(reply[:given]) != prompt[len(start) :]:
            return None
        ended = len(reply) < most
        if ended or most - given >= room:
            return reply[given : given + room]
        return None
    return None
