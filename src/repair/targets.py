"""What a request is about: spans of its text, or what its pronouns stand for.

Knows phrases and the history of the conversation; knows neither the classifier nor the
patient, so a span is as it was said and may name nothing the patient knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from repair.phrases import ENGLISH, Phrases
from repair.phrases_more import OTHERS
from repair.types import IntentKind, Message
from repair.utterance import OwnWords, own_words

_CAPITAL = r"[A-ZÀ-ÖØ-ÞĀ-Ž][\w'’-]*"
_NAME = re.compile(
    rf"{_CAPITAL}(?:\s+(?:de|von|van|da|di|del|la|le|al|el|bin|{_CAPITAL}))*\s+{_CAPITAL}|"
    rf"{_CAPITAL}"
)
_WORDS = """
where what when who whom how which why does did is was are the please forget tell can could do i
you he she it they that this my your actually no yes remember undo bring in on at and but a an
wo wer wann wie ist wohnt das bitte vergiss où qui quand comment quel quelle est oublie le la
dónde quién cuándo cómo cuál es olvida el dove chi quando come qual dimentica il onde quem como
esquece o gdzie kto kiedy jak jaki jaka czy zapomnij delete erase has have had if of for about
ok gdpr dsgvo rgpd rodo article art under give edit also first then update change correct know
"""
_NOT_A_NAME = frozenset(_WORDS.split())
_PLACE = re.compile(
    r"(?:Street|Road|Lane|Avenue|Court|Square|Way|Bridge|Tower|Lighthouse|Fair|Festival|Castle|"
    r"Museum|"
    r"Bank|Hospital|School|University|Institute|Company|Ltd|Inc)$"
)
_LOWER_NAME = re.compile(
    r"\b(?:does|is|was|did|about|of|for|has)\s+((?!(?:your|my|the|his|her|their|this|that|what|"
    r"it)\b)[^\W\d_]{2,} [^\W\d_]{2,}?)(?:['’]s\b|s\b(?= \w)|"
    r"\s+(?:live|work|born|do|have|drive|like)\b|\s*[?.]|$)"
)
_HAN_NAME = re.compile(
    r"([一-鿿ァ-ヿ・·A-Za-z][一-鿿ァ-ヿー・·A-Za-z ]{1,20}?)(?:さん|氏)?(?:的|住|在|の|は|が|是|"
    r"什么|多)"
)
_JAPANESE = re.compile(r"[぀-ヿ]")
_CHINESE = re.compile(r"[一-鿿]")
_MY_NAME = re.compile(
    rf"\b(?:my name is|i am|i['’]?m|this is)\s+({_CAPITAL}(?:\s+{_CAPITAL})+)", re.IGNORECASE
)
_MY = re.compile(r"\bmy(?: own| personal)?\b", re.IGNORECASE)
_ALL_EDITS = re.compile(
    r"\b(?:everything|all (?:of (?:it|them|those|these)|(?:the |your |my )?(?:edits|changes))|"
    r"every (?:edit|change))(?: (?:again|now|back|please))*[\s.!?]*$",
    re.IGNORECASE,
)
_NUMBERED = re.compile(
    r"(?:edits?|changes?|operations?|request|änderung|bearbeitung|modification|edición|cambio|"
    r"edição|"
    r"alteração|modifica|edycj\w+|zmian\w+|编辑|修改|編集|変更|第|#)\s*(?:number|no\.?|nr\.?|"
    r"numéro|"
    r"número|numero)?\s*[#：:]?\s*(\d+(?:(?:\s*(?:,|and|und|et|y|e|i|和|と)\s*)+#?\d+)*)",
    re.IGNORECASE,
)
_SOUGHT = re.compile(
    r"(?i:\b(?:where|who|whom|when|how|what)\b .+"
    r"|\b(?:the|her|his|their|my)\b [\w -]+? (?:of|for|about|on) .+)"
    rf"|{_CAPITAL}(?: {_CAPITAL})*['’]s? .+|(?i:\b(?:his|her|their|my) .+)"
)
# Last resort, for misspelt verbs: what follows the first word after politeness.
_REST = re.compile(
    r"^(?:please|pls|plz|just|now|ok|can you|could you|kindly|"
    r"\W)*\s*\w+\s+(?P<t>\S.+)",
    re.IGNORECASE,
)
_SAYS_THAT = re.compile(r"(?:that|this|it|there|let|he|she|i)[’']?s?\b", re.IGNORECASE)
_ASKS = re.compile(r"(?:where|who|whom|when|how|what)\b", re.IGNORECASE)
_PREDICATE = re.compile(r"\s+(?:is|are|was|should|must)\b")
_FILLERS = re.compile(
    r"^(?:that|about|of|for|the fact that|all of|also|please|me|:)\s+(?=\S)", re.IGNORECASE
)
EDGES = ' \t\n.,;:!?…。！？、，"“”-–'
MAX_TARGETS = 16


@dataclass(frozen=True)
class Context:
    """What pronouns may stand for, the nearest first."""

    question: str | None
    name: str | None
    speaker: str | None


def find_targets(
    kind: IntentKind,
    words: OwnWords,
    ordering: Sequence[bool],
    history: Sequence[Message],
    is_request: Callable[[str], bool],
    marked: Sequence[Sequence[str]] = (),
) -> tuple[str, ...]:
    """Targets of a message that orders to forget or to restore.

    ``ordering`` tells of each sentence whether it, read alone, is of ``kind``; ``marked``
    are the spans of each sentence that the classifier takes for targets;
    ``is_request`` tells of an earlier user message whether it was an order, not a question.
    """
    sentences = [words.unmask(sentence) for sentence in words.sentences]
    if not any(ordering):
        ordering = [True] * len(sentences)
    context = context_of(sentences, history, is_request)
    found: list[str] = []
    guessed: list[str] = []
    for number, sentence in enumerate(sentences):
        if ordering[number]:
            pointed = found[-1:] or _pointed(sentences[:number], context)
            own = [words.unmask(span) for span in marked[number]] if marked else []
            spans, sure = _spans(kind, sentence, pointed, context, own)
            (found if sure else guessed).extend(spans)
    return tuple(dict.fromkeys(found or guessed))[:MAX_TARGETS]


def ordered(text: str) -> tuple[str, ...]:
    """What a text orders to forget that is known to be such an order: what stands behind its verb.

    A text without one is the target itself.
    """
    words = own_words(text)
    sentences = [words.unmask(sentence) for sentence in words.sentences]
    context = context_of(sentences, (), lambda _: False)
    read = [_spans("forget", sentence, (), context) for sentence in sentences]
    found = [target for spans, sure in read if sure for target in spans]
    return tuple(dict.fromkeys(found))[:MAX_TARGETS] or (text.strip(),)


def context_of(
    sentences: Sequence[str], history: Sequence[Message], is_request: Callable[[str], bool]
) -> Context:
    """What pronouns of ``sentences`` stand for, after ``history``."""
    asked = [message["content"] for message in history if message["role"] == "user"]
    answered = [message["content"] for message in history if message["role"] == "assistant"]
    question = next(
        (text.strip() for text in reversed(asked) if text.strip() and not is_request(text)), None
    )
    here = next((name for text in sentences if (name := person(text, certain=True))), None)
    earlier = (person(text) for text in (*reversed(asked), *reversed(answered)))
    speaker = _MY_NAME.search(" ".join(sentences))
    return Context(
        question,
        here or next((name for name in earlier if name), None),
        speaker[1] if speaker else None,
    )


def person(text: str, *, certain: bool = False) -> str | None:
    """The last name in ``text`` that looks like a person's, or None.

    ``certain`` takes only names of several capitalised words.
    """
    text = text[-1000:]
    found = None
    for match in _NAME.finditer(text):
        parts = re.sub(r"['’]s?$", "", match[0]).split()
        while parts and parts[0].lower() in _NOT_A_NAME:
            parts.pop(0)
        if len(parts) > 1 and not _PLACE.search(parts[-1]):
            found = " ".join(parts)
    if found or certain:
        return found
    pattern = _HAN_NAME if _CHINESE.search(text) or _JAPANESE.search(text) else _LOWER_NAME
    other = pattern.search(text)
    if other:
        return other[1]
    single = [
        re.sub(r"['’]s?$", "", match[0])
        for match in _NAME.finditer(text)
        if match.start() and match[0].lower() not in _NOT_A_NAME
    ]
    return single[-1] if single else None


def languages(text: str) -> Iterable[Phrases]:
    """The languages whose wordings to try, the likeliest first."""
    if _JAPANESE.search(text):
        return (OTHERS["ja"],)
    if _CHINESE.search(text):
        return (OTHERS["zh"],)
    return (ENGLISH, *(phrases for name, phrases in OTHERS.items() if name not in ("ja", "zh")))


def _spans(
    kind: IntentKind,
    sentence: str,
    pointed: Sequence[str],
    context: Context,
    marked: Sequence[str] = (),
) -> tuple[list[str], bool]:
    """Every target of one sentence, and whether a wording of an order led to them.

    ``pointed`` is what "that" stands for. A restore without a span means the last edit.
    """
    if kind == "restore":
        pointed = []
        numbers = [
            n for match in _NUMBERED.finditer(sentence) for n in re.findall(r"\d+", match[1])
        ]
        if numbers:
            return numbers, True
        if _ALL_EDITS.search(sentence):
            return ["everything"], True
    if marked:
        tongue = _tongue(kind, sentence)
        said = _named(sentence[: sentence.find(marked[0])], context) if kind == "forget" else []
        parts = [_several(span, None, tongue, said or pointed, context) for span in marked]
        if any(parts):
            return [target for part in parts for target in part], True
    for phrases in languages(sentence):
        for pattern in phrases.forget if kind == "forget" else phrases.restore:
            match = pattern.search(sentence)
            if match and (span := trim(match["t"], phrases)):
                # "Since you know how it is made, forget that": the same sentence may say it.
                said = _named(sentence[: match.start()], context) if kind == "forget" else []
                spans = _several(span, pattern, phrases, said or pointed, context)
                if spans:
                    return spans, True
    sought = _SOUGHT.search(sentence)
    if sought and kind == "forget":
        span = trim(sought[0], ENGLISH)
        return _several(span, None, ENGLISH, pointed, context), False
    # "Oublie-le", "Bórralo": the pronoun hangs on the verb and leaves no span.
    rest = _REST.match(sentence) if kind == "forget" and not pointed else None
    if rest and (span := trim(rest["t"], ENGLISH)):
        return _several(span, None, ENGLISH, (), context), False
    return (list(pointed) if len(sentence) < 60 else []), False


def _tongue(kind: IntentKind, sentence: str) -> Phrases:
    """The language whose wordings of such an order the sentence has; English if none."""
    for phrases in languages(sentence):
        if any(
            p.search(sentence) for p in (phrases.forget if kind == "forget" else phrases.restore)
        ):
            return phrases
    return next(iter(languages(sentence)))


def _several(
    span: str,
    pattern: re.Pattern[str] | None,
    phrases: Phrases,
    pointed: Sequence[str],
    context: Context,
) -> list[str]:
    """Each target of ``span``; ``pointed`` is what "that" stands for."""
    found: list[str] = []
    for part in phrases.split.split(span):
        # A second order in the same sentence: "forget this and delete that".
        again = pattern.search(part) if pattern is not None and found else None
        piece = trim(again["t"] if again else part, phrases)
        if not piece:
            continue
        if phrases.that.fullmatch(piece) or (piece.lower() == "them" and pointed):
            found += pointed
        else:
            found.append(resolve(piece, phrases, context))
    return [target for target in found if target]


def _pointed(before: Sequence[str], context: Context) -> list[str]:
    """What "that" stands for: a thing named earlier in the message, else the last question."""
    for sentence in reversed(before):
        if named := _named(sentence, context):
            return named
    return [context.question] if context.question else []


def _named(text: str, context: Context) -> list[str]:
    """The thing that ``text`` speaks of, as at most one target."""
    sought = _SOUGHT.search(text)
    if not sought or _SAYS_THAT.match(sought[0]):
        return []
    thing = sought[0] if _ASKS.match(sought[0]) else _PREDICATE.split(sought[0])[0]
    return [resolve(trim(thing, ENGLISH), ENGLISH, context)]


def trim(span: str, phrases: Phrases) -> str:
    """Without politeness at the end and without empty words at the beginning."""
    previous = None
    span = span.strip(EDGES)
    while previous != span:
        previous = span
        span = phrases.trail.sub("", span).strip(EDGES)
        span = _FILLERS.sub("", span) if not phrases.that.fullmatch(span) else span
    return span


def resolve(span: str, phrases: Phrases, context: Context) -> str:
    """Put the last person's name where a pronoun stands."""
    if context.speaker and phrases is ENGLISH:
        span = _MY.sub(f"{context.speaker}'s", span)
    name = context.name
    if name is None:
        return "" if phrases.person.fullmatch(span) else span
    if phrases.person.fullmatch(span):
        return name
    if name in span:
        return span
    if phrases is ENGLISH:
        span = phrases.possessive.sub(lambda match: f"{name}'s {match['t']}", span)
    else:
        owned = phrases.possessive.fullmatch(span)
        if owned:
            return phrases.owned.format(name=name, t=owned["t"])
    return phrases.subject.sub(name, span)
