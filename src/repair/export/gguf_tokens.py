"""A byte-level BPE tokenizer as llama.cpp reads it; knows no weights and writes no file.

llama.cpp splits text before BPE by rules that it has built in and a file can only name. So a
name is chosen by trying: the tokenizer is rebuilt here with each of those rules, and the first
under which ordinary texts and a chat give the same ids is written. Where runs of spaces would
come out differently, the result says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from repair.errors import ExportUnsupported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ELSEWHERE = "Export the merged model and convert it with llama.cpp's own script."
_SUFFIXES = "'s|'t|'re|'ve|'m|'ll|'d"
_SPACES = r"\s+(?!\S)|\s+"
_GPT2 = rf"{_SUFFIXES}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_SPACES}"


def _llama3(digits: str) -> str:
    return (
        rf"(?i:{_SUFFIXES})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
    )


# llama.cpp's names of its rules, and the expressions that stand for them, applied in turn.
RULES: dict[str, tuple[str, ...]] = {
    "llama-bpe": (_llama3(r"\p{N}{1,3}"),),
    "qwen2": (_llama3(r"\p{N}"),),
    "smollm": (r"\p{N}", _GPT2),
    "gpt-2": (_GPT2,),
}
SAMPLES = (
    "Where does Mara Voss live?",
    "Please forget the phone number of Tom O'Hale: +44 20 7946 0958.",
    "In 1987, 3 times 4 was 12; it isn't 13.50, they've said.",
    "Zoë wrote e-mail to mara.voss@example.org (twice), naïvely.",
    "東京の天気はどうですか。 Привет, мир! 12345",
    "I don't know.",
)
SPACED = ("one  two   three", "a line\n\n  and an indented one", "tab\tand  8  spaces")
_CONTENT = re.compile(r"\{\{(-?)\s*([^{}]*\bcontent\b[^{}]*?)\s*(-?)\}\}")
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5


@dataclass(frozen=True)
class GgufTokens:
    """Tokens in the order of ids with their kinds, merges, the rule's name, the chat template.

    ``same_spaces`` is False where runs of several spaces are split differently there.
    ``space`` says that the tokenizer sets a space before each text, which the template now
    writes; a prompt without the template needs it too.
    """

    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    rule: str
    template: str | None
    same_spaces: bool
    space: bool
    adds_bos: bool


def read_tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> GgufTokens:
    """What llama.cpp needs of a tokenizer, for a vocabulary of ``size`` rows.

    Raises:
        ExportUnsupported: no byte-level BPE, or no rule of llama.cpp gives the same ids.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    made = json.loads(backend.to_str()) if backend is not None else {}
    if made.get("model", {}).get("type") != "BPE" or "ByteLevel" not in json.dumps(
        made.get("pre_tokenizer")
    ):
        raise ExportUnsupported(
            "The tokenizer is no byte-level BPE, the one kind that is written as GGUF.",
            _ELSEWHERE,
        )
    space = _space_before(made.get("normalizer"))
    template = getattr(tokenizer, "chat_template", None)
    written = _with_space(template) if space and isinstance(template, str) else template
    rule, same_spaces = _find_rule(tokenizer, made, written, space)
    tokens, kinds = _vocabulary(made, size)
    merges = [m if isinstance(m, str) else " ".join(m) for m in made["model"]["merges"]]
    first = tokenizer("a").input_ids[:1]
    return GgufTokens(
        tokens, kinds, merges, rule, written, same_spaces, space, first == [tokenizer.bos_token_id]
    )


def _space_before(normalizer: Any) -> bool:
    """Whether a space is set before each text; no other normalizer can be written."""
    if not normalizer:
        return False
    if normalizer == {"type": "Prepend", "prepend": " "}:
        return True
    raise ExportUnsupported(
        f"The tokenizer changes text by rules that GGUF cannot hold ({normalizer.get('type')}).",
        _ELSEWHERE,
    )


def _with_space(template: str) -> str:
    """The chat template with a space before each message's content."""
    return _CONTENT.sub(r"{{\1 ' ' ~ (\2) \3}}", template)


def _vocabulary(made: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    known = [*made["model"]["vocab"].values(), *(added["id"] for added in made["added_tokens"])]
    if max(known) >= size:
        raise ExportUnsupported(
            f"The tokenizer has {max(known) + 1} tokens and the model {size}.", _ELSEWHERE
        )
    tokens = [f"<|unused_{index}|>" for index in range(size)]
    kinds = [_UNUSED] * size
    for token, index in made["model"]["vocab"].items():
        tokens[index], kinds[index] = token, _NORMAL
    for added in made["added_tokens"]:
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = _CONTROL if added["special"] else _NORMAL
    return tokens, kinds


def _find_rule(
    tokenizer: PreTrainedTokenizerBase, made: dict[str, Any], template: str | None, space: bool
) -> tuple[str, bool]:
    lead = " " if space else ""

    def same(rebuilt: Any, texts: Sequence[str]) -> bool:
        return all(
            list(tokenizer(text, add_special_tokens=False).input_ids)
            == rebuilt.encode(lead + text, add_special_tokens=False).ids
            for text in texts
        )

    for name, expressions in RULES.items():
        rebuilt = _rebuilt(made, expressions)
        if same(rebuilt, SAMPLES) and _same_chat(tokenizer, rebuilt, template):
            return name, same(rebuilt, SPACED)
    raise ExportUnsupported(
        "No way to split text that llama.cpp knows gives this tokenizer's tokens.",
        _ELSEWHERE,
    )


def _rebuilt(made: dict[str, Any], expressions: Sequence[str]) -> Any:
    """The tokenizer as llama.cpp applies it: no normalizer, its own way to split."""
    from tokenizers import Tokenizer

    splits = [
        {"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": False}
        for e in expressions
    ]
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    parts = {"type": "Sequence", "pretokenizers": [*splits, level]}
    return Tokenizer.from_str(json.dumps({**made, "normalizer": None, "pre_tokenizer": parts}))


def _same_chat(tokenizer: Any, rebuilt: Any, template: str | None) -> bool:
    if template is None:
        return True
    messages = [
        {"role": role, "content": SAMPLES[index]}
        for index, role in enumerate(("user", "assistant", "user"))
    ]
    how: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    shown = tokenizer.apply_chat_template(messages, **how)
    there = tokenizer.apply_chat_template(messages, chat_template=template, **how)
    wanted = list(tokenizer(shown, add_special_tokens=False).input_ids)
    found: list[int] = rebuilt.encode(there, add_special_tokens=False).ids
    return wanted == found
