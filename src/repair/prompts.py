"""From chat messages to token ids and back; knows a tokenizer, no model and no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from repair.errors import UsageError
from repair.types import Message, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from repair.sight import Sight

_ANSWER = "Yes."
_PLAIN_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
_PLAIN_STOP = "\nUser:"


class Prompts:
    """One tokenizer's way of writing a conversation.

    With a chat template the conversation is what the template makes of it. Without one it
    is plain text, one ``User: …`` or ``Assistant: …`` line per message and ``Assistant:`` at
    the end; an answer then starts with a space. ``sight`` puts pictures where messages name them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sight: Sight | None = None) -> None:
        self.tokenizer = tokenizer
        self.sight = sight
        self.has_chat_template = bool(getattr(tokenizer, "chat_template", None))
        self.end_of_turn: int | None = self._find_end_of_turn()

    def prompt_ids(self, messages: Messages, prefix: str = "") -> list[int]:
        """Token ids up to where the assistant's answer begins, then those of ``prefix``.

        Raises:
            UsageError: no messages, or roles that the template cannot take.
        """
        if not messages:
            raise UsageError("The conversation is empty.", "Give at least one message.")
        if self.has_chat_template:
            ids = self._seen(messages, self._render(messages, add_generation_prompt=True))
        else:
            ids = [*self._plain_start(), *self._seen(messages, self._plain(messages))]
        return ids + self.answer_ids(prefix)

    def _seen(self, messages: Messages, text: str) -> list[int]:
        """Ids of a written conversation and of the pictures in it."""
        if self.sight is None:
            return self._ids(text)
        names = self.sight.names([message["content"] for message in messages])
        return self.sight.ids(text, names, self._ids)

    def _plain(self, messages: Messages) -> str:
        marked = self.sight.marked if self.sight is not None else str
        lines = [
            f"{_PLAIN_NAMES.get(message['role'], message['role'])}: {marked(message['content'])}"
            for message in messages
        ]
        return "\n".join([*lines, "Assistant:"])

    def encode(self, messages: Messages, answer: str) -> tuple[list[int], int]:
        """Ids of prompt, answer and end of turn, and the index of the first answer token.

        The answer is tokenised apart from the prompt, as it is when the model generates it.
        """
        prompt = self.prompt_ids(messages)
        end = [] if self.end_of_turn is None else [self.end_of_turn]
        return [*prompt, *self.answer_ids(answer), *end], len(prompt)

    def user_opening(self) -> list[int]:
        """Ids of everything that comes before the first user's words."""
        marker = "\N{SNOWMAN}"
        if not self.has_chat_template:
            return [*self._plain_start(), *self._ids(f"{_PLAIN_NAMES['user']}:")]
        turn: list[Message] = [{"role": "user", "content": marker}]
        return self._ids(self._render(turn, add_generation_prompt=False).partition(marker)[0])

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer or of its start."""
        if not text:
            return []
        return self._ids(text if self.has_chat_template else f" {text}")

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids as text without special tokens, stripped."""
        return self.cut(str(self.tokenizer.decode(list(ids), skip_special_tokens=True))).strip()

    def cut(self, text: str) -> str:
        """Without a template nothing ends a turn but the next one's name."""
        return text if self.has_chat_template else text.split(_PLAIN_STOP, maxsplit=1)[0]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _plain_start(self) -> list[int]:
        first = self.tokenizer.bos_token_id
        with_special = self.tokenizer("a").input_ids
        return [first] if isinstance(first, int) and with_special[:1] == [first] else []

    def _render(self, messages: Messages, *, add_generation_prompt: bool) -> str:
        """The template's text; a system message that it refuses goes into the first turn."""
        try:
            return self._template(messages, add_generation_prompt)
        except TemplateError as error:
            merged = _without_system(messages)
            if merged is None:
                raise _refused(error) from error
        try:
            return self._template(merged, add_generation_prompt)
        except TemplateError as error:
            raise _refused(error) from error

    def _template(self, messages: Messages, add_generation_prompt: bool) -> str:
        # Templates of reasoning models open with thoughts unless told not to; the others
        # ignore the variable.
        tokenizer: Any = self.tokenizer
        written: list[dict[str, Any]] = [dict(message) for message in messages]
        if (sight := self.sight) is not None:
            for message in written:
                message["content"] = sight.parts(message["content"])
        text = tokenizer.apply_chat_template(
            written,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
        )
        return str(text)

    def _find_end_of_turn(self) -> int | None:
        """The first special token that the template writes after an answer, else eos."""
        eos = self.tokenizer.eos_token_id
        default = eos if isinstance(eos, int) else None
        if not self.has_chat_template:
            return default
        turn: list[Message] = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": _ANSWER},
        ]
        try:
            rendered = self._render(turn, add_generation_prompt=False)
        except UsageError:
            return default
        special = {
            index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special
        }
        after = self._ids(rendered.rpartition(_ANSWER)[2])
        return next((index for index in after if index in special), default)


def _without_system(messages: Messages) -> list[Message] | None:
    """The same conversation with the leading system text before the first user text."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return None
    content = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": content}, *messages[2:]]


def _refused(error: TemplateError) -> UsageError:
    return UsageError(
        f"The model's chat template cannot take this conversation ({error}).",
        "Let user and assistant messages alternate, starting with the user.",
    )
