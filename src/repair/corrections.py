"""What a correction is about and what is right instead.

Knows wordings and the history of the conversation, as ``repair.targets`` does; knows neither
the classifier nor the patient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from repair.phrases import ENGLISH, Phrases
from repair.targets import EDGES, Context, context_of, languages, resolve, trim
from repair.types import Message
from repair.utterance import OwnWords

_FORMS = (
    (r"(?:lives?|lived) (?:in|at|on)$", "where {s} lives"),
    (r"(?:works?|worked) (?:in|at|for|by|with)$", "where {s} works"),
    (r"(?:works?|worked) as$", "what {s} works as"),
    (r"born on$", "when {s} was born"),
    (r"born (?:in|at)$", "{born} {s} was born"),
    (r"(built|designed|founded|invented|discovered|made|written) by$", "who {v} {s}"),
    (r"(built|opened|founded|held) (?:in|on|at)$", "{born} {s} was {v}"),
    (r"is married to$", "who {s} is married to"),
    (r"is allergic to$", "what {s} is allergic to"),
    (r"(?:is|stands|is located|takes place) (?:in|at|on)$", "where {s} is"),
)  # fmt: skip


def find_correction(
    words: OwnWords,
    ordering: Sequence[bool],
    history: Sequence[Message],
    is_request: Callable[[str], bool],
) -> tuple[tuple[str, ...], str | None]:
    """What a correction is about, and the value given instead.

    Arguments as of `repair.targets.find_targets`.
    """
    sentences = [words.unmask(sentence) for sentence in words.sentences]
    context = context_of(sentences, history, is_request)
    first = list(ordering).index(True) if any(ordering) else 0
    text = " ".join(sentences[first:])
    targets, value = _found(text, context)
    if value and context.name and context.name in value:
        # The new value is nobody's antecedent: "she works for Nimbus Foundry now".
        others = [sentence.replace(value, "") for sentence in sentences]
        return _found(text, context_of(others, history, is_request))
    return targets, value


def _found(text: str, context: Context) -> tuple[tuple[str, ...], str | None]:
    # A language whose opening of a correction stands there goes first.
    tried = sorted(languages(text), key=lambda phrases: phrases.lead.search(text) is None)
    for phrases in tried:
        for pattern in phrases.change:
            match = pattern.search(text)
            if match:
                target = trim(match.groupdict().get("t") or "that", phrases)
                # In "not Y but X" and "replace Y by X" the target is a value, not a question.
                value = pattern.pattern.startswith("^") or "replace" in match[0].lower()[:8]
                return _corrected(None if value else target, match["r"], phrases, context)
    for phrases in tried:
        body = phrases.lead.sub("", text).strip()
        match = phrases.value.search(body)
        if match and (phrases is ENGLISH or body != text):
            return _corrected(None, match["r"], phrases, context)
        contrast = re.search(r"\bnot\s+(.+?)(?:,\s*|\s+)(?:but|it's|it is)\s+(?P<r>.+)", body)
        if contrast:
            return _corrected(None, contrast["r"], phrases, context)
        match = phrases.verbs.search(body)
        if match:
            return _corrected(_asserted(match, phrases, context), match["r"], phrases, context)
        if body != text and body:
            return _corrected(None, body, phrases, context)
    return _corrected(None, "", ENGLISH, context)


def _corrected(
    target: str | None, value: str, phrases: Phrases, context: Context
) -> tuple[tuple[str, ...], str | None]:
    value = _value(value, phrases)
    if target is None or phrases.that.fullmatch(target):
        return ((context.question,) if context.question else ()), value or None
    resolved = resolve(target, phrases, context)
    return ((resolved,) if resolved else ()), value or None


def _asserted(match: re.Match[str], phrases: Phrases, context: Context) -> str:
    """The question that a statement answers, as a phrase: "where Mara Voss lives"."""
    subject, verb = match["t"].strip(EDGES), match["v"].strip()
    if phrases.copula.fullmatch(verb):
        return subject
    if phrases is not ENGLISH:
        return f"{resolve(subject, phrases, context)} {match.groupdict().get('v2') or verb}"
    subject = resolve(subject, phrases, context)
    born = "when" if re.search(r"\b1\d{3}\b|\b20\d\d\b", match["r"]) else "where"
    for pattern, form in _FORMS:
        found = re.search(pattern, verb, re.IGNORECASE)
        if found:
            done = found[1] if found.lastindex else ""
            return form.format(s=subject, born=born, v=done)
    return f"{subject} {verb}"


_CONTRAST = re.compile(
    r"(?:,\s*|\s+)(?:and not|not|nicht|pas|et non|no|y no|non|e non|não|e não|nie|a nie|instead of|"
    r"rather than)\s+.+$|，(?:而?不是).+$",
    re.IGNORECASE | re.DOTALL,
)
_REMINDER = re.compile(
    r"[\s,.;:–-]+(?:and )?(?:please )?(?:remember (?:that|this|it)|keep (?:that|it|this) in mind|"
    r"(?:please )?(?:learn|note|update|fix|correct) (?:that|it|this)(?: down)?|take note|get it "
    r"right|"
    r"please remember|remember|merke? dir das|bitte merken|retiens-le|retiens ça|souviens-t['’]en|"
    r"note-le|recuérdalo|recuerda eso|apúntalo|ricordal[oa]|ricordatelo|tienilo a mente|"
    r"lembra-te disso|lembre-se disso|guarda isso|zapamiętaj(?: to)?)[.!]*$|[，。](?:请?记住.*)$"
    r"|(?:です|だ)?[。、]?(?:と)?覚えて.*$",
    re.IGNORECASE,
)


def _value(value: str, phrases: Phrases) -> str:
    """A replacement without "not Y", reminders and politeness; only its first sentence."""
    value = _REMINDER.sub("", value.strip())
    value = re.split(r"(?<=[^.\W]{3}[.!?])\s+(?=[A-ZÀ-Ž])|(?<=[。！？])", value)[0]
    value = _REMINDER.sub("", _CONTRAST.sub("", value))
    value = re.sub(r"(?:です|でした)[。]?$", "", value)
    return trim(value, phrases)
