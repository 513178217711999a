"""What of a message are the user's own words, and where its sentences end.

Knows the marks of quotations, code, pasted documents and front-end prompts; knows nothing
about intents. Text from a document is never an order, so it never reaches the classifier.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Of a longer text only its beginning and its end are read: reading stays bounded, and
# people put requests there.
HEAD = TAIL = 1_500
_PRIVATE = 0xE000

_VERB = (
    r"summari[sz]e|translate|proof-?read|rewrite|rephrase|paraphrase|analy[sz]e|review|shorten|"
    r"classify|polish|improve|simplify|spell-?check|explain|extract|summary of|translation of|"
    r"reply to|respond to|read|check|comment on|continue|complete|what (?:do|does|is|should)|"
    r"tl;?dr|turn|convert|transform|count|make (?:this|it)|fass\w*|übersetz\w*|lies|"
    r"korrekturlesen|résume[rz]?|tradui\w+|corrige[rz]?|"
    r"resum[aei]\w*|traduc\w+|traduz\w*|riassum\w+|streść|streszcz\w*|przetłumacz|przeczytaj"
)
_NOUN = (
    r"articles?|texts?|pages?|web ?pages?|websites?|e-?mails?|letter|story|documents?|posts?|"
    r"comments?|transcript|logs?|output|results?|paragraph|passage|excerpt|chapter|poem|code|"
    r"script|snippet|file|memo|report|context|tweet|conversation|readme|html|json|speech|"
    r"dialogue|lyrics|scene|sentence|clipping|leaflet|message|manual|examples?|prompts?|"
    r"instructions?|payload|ticket|haiku|"
    r"limerick|quote|line|artikel|nachricht|brief|"
    r"dokument|seite|webseite|satz|texte|courriel|lettre|phrase|texto|artículo|carta|correo|"
    r"documento|frase|testo|articolo|lettera|messaggio|artigo|mensagem|tekst|artykuł|"
    r"wiadomość|stron\w+|zdanie"
)
_SAID = (
    r"says?|said|reads?|wrote|writes|asked|states|whispered|shouted|replied|answered|begged|"
    r"told (?:me|us|him|her|them)|sagte?|schrieb|steht|dit|écrit|disait|dice|dijo|escribió|"
    r"disse|scrisse|scritto|escreveu|powiedział\w*|napisał\w*"
)
_CJK_DOCUMENT = (
    r"文章|邮件|文本|网页|文件|文档|段落|句子|翻译|总结|概括|記事|文書|メール|"
    r"テキスト|ページ|文を|翻訳|要約"
)

# Each block ends by its own mark or, where that is missing, with the message.
_BLOCKS = re.compile(
    r"(?P<fence>```|~~~|\"\"\"|''').*?(?:(?P=fence)|\Z)"
    r"|<!--.*?(?:-->|\Z)"
    r"|<(?P<tag>[A-Za-z][\w-]*)\b[^<>]*>.*?(?:</(?P=tag)\s*>|\Z)"
    r"|^[-=*#]{2,} ?(?:begin|start)\b.*?(?:^[-=*#]{2,} ?end\b[^\n]*|\Z)"
    r"|^(?:-{3,}|={3,}|\*{3,})[ \t]*$.*?(?:^(?:-{3,}|={3,}|\*{3,})[ \t]*$|\Z)"
    r"|`[^`\n]+`"
    r"|^[ \t]*\$ [^\n]*(?:\n(?!\s*\n)[^\n]*)*"
    r"|^[ \t]*(?:>|\$ |>>> |\|)[^\n]*$",
    re.DOTALL | re.MULTILINE | re.IGNORECASE,
)
# From here on the message is somebody else's text.
_TO_THE_END = re.compile(
    rf"(?:\b(?:{_VERB})\b[^.!?\n:]{{0,90}}(?::|\n)|\b(?:{_NOUN})\b[^.!?\n:]{{0,60}}:)"
    rf"|(?:(?:{_CJK_DOCUMENT})[^。！？\n：:]{{0,20}}[：:])"
    r"|^[ \t]*(?:system|user|assistant|human|ai|tool|function|observation|bot|admin|developer|"
    r"nutzer|utilisateur|usuario|utente|系统|用户|システム)(?: \w+)? ?:"
    r"|^[ \t]*(?:from|subject|to|sent|von|betreff|objet|asunto|oggetto|assunto|temat|发件人|主题|"
    r"件名) ?:"
    r"|^[ \t]*\[(?:tool|search|system|context|document|source|result|inst)[^\]]*\]"
    r"|^[ \t]*#+ ?(?:task|guidelines|instructions?|context|chat history)\b"
    r"|\{\s*\"",
    re.IGNORECASE | re.MULTILINE,
)
_MARK = re.compile(r"[:：{\[#\n]")
_LINE_OF_SPEECH = re.compile(
    rf"\b(?:{_SAID})\b[^.!?\n:]{{0,30}}:[^\n]*|(?:说|写道|写着|问道|言った|"
    rf"書いて\w{{0,4}})[：:][^\n]*",
    re.IGNORECASE,
)
_TASK_BELOW = re.compile(
    rf"\b(?:{_VERB})\b.{{0,60}}\b(?:above|this|that|it|{_NOUN})\b", re.IGNORECASE | re.DOTALL
)
_TASK_ABOVE = re.compile(
    rf"\A[^\n]{{0,200}}\b(?:{_VERB})\b[^\n]{{0,90}}\b(?:this|below|following|{_NOUN})\b[^\n]*\n",
    re.IGNORECASE,
)
# "I pasted the page below, give me the key points": the rest of such a message is the page.
_PASTED = re.compile(
    rf"\A[^\n]{{0,200}}\b(?:pasted|attached|copied|below|quoted|forwarded|here (?:is|are)|"
    rf"{_NOUN})\b"
    r"[^\n]*\b(?:below|pasted|here (?:is|are)|attached|summary|key points|gist|feedback|mistakes|"
    r"errors|opinion|think|below)\b[^\n]*\n[ \t]*\n",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"\s*(?:#+ ?task\b|(?:generate|create|suggest|write|provide|determine)\b[^\n]{0,60}"
    r"\b(?:title|tags?|follow-?up|search quer|headline)\b[^\n]*(?:\n|chat|conversation|:))",
    re.IGNORECASE,
)
_OVERRIDE = re.compile(
    r"\b(?:ignore|disregard|override)\b.{0,30}\b(?:instructions?|prompts?|rules|above|"
    r"guidelines)\b",
    re.IGNORECASE,
)
_QUOTES = re.compile(
    r"\"[^\"]*\"|“[^”]*”|„[^“”\"]*[“”\"]|«[^»]*»|»[^«]*«|「[^」]*」|『[^』]*』|《[^》]*》|"
    r"‘[^’]*’(?!\w)"
    r"|(?<!\w)'(?=\S)[^\n]{2,400}?(?<=\S)'(?!\w)|(?<!\S)[\"“„«「](?=\S).*\Z",
    re.DOTALL,
)
_END = re.compile(r"(?<=[.!?…])[\s]+|(?<=[。！？])|\n+")
_ABBREVIATION = re.compile(
    r"(?:\b(?:art|mr|mrs|ms|dr|st|no|nr|abs|prof|hr|fr|sr|sra|ul|z\.b|e\.g|i\.e|[a-z]))\.\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class OwnWords:
    """The user's own sentences; ``quotes`` are what the private characters stand for."""

    sentences: tuple[str, ...]
    quotes: tuple[str, ...] = ()

    def unmask(self, text: str) -> str:
        """``text`` with its quotations put back, without their marks."""
        for number, quote in enumerate(self.quotes):
            text = text.replace(chr(_PRIVATE + number), quote)
        return text


def own_words(text: str) -> OwnWords:
    """Strip documents, code, prompts and reasoning; mask quotations; split into sentences.

    Of a text longer than ``HEAD + TAIL`` characters only the beginning and the end are read.
    """
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]}\n{text[-TAIL:]}"
    if _PROMPT.match(text) or _OVERRIDE.search(text):
        return OwnWords(())
    text = _without_documents(_BLOCKS.sub(" ", text))
    quotes: list[str] = []

    def mask(match: re.Match[str]) -> str:
        quotes.append(match[0].strip("\"“”„«»「」『』《》‘’' "))
        return chr(_PRIVATE + min(len(quotes) - 1, 0x18FF))

    return OwnWords(_sentences(_QUOTES.sub(mask, text)), tuple(quotes))


def _without_documents(text: str) -> str:
    paragraphs = [part for part in re.split(r"\n[ \t]*\n\s*", text.strip()) if part.strip()]
    if len(paragraphs) > 1 and len(paragraphs[-1]) < 200 and _TASK_BELOW.search(paragraphs[-1]):
        return paragraphs[-1]
    if _TASK_ABOVE.match(text.lstrip()) or _PASTED.match(text.lstrip()):
        return ""
    # Most messages have none of the marks, and this is the slowest of the patterns.
    cut = _TO_THE_END.search(text) if _MARK.search(text) else None
    if cut:
        # The sentence that introduces a document is a task about it, so it goes as well.
        text = text[: cut.start()]
        text = text[: max(text.rfind(mark) for mark in ".!?。！？\n") + 1]
    return _LINE_OF_SPEECH.sub(" ", text)


def _sentences(text: str) -> tuple[str, ...]:
    merged: list[str] = []
    for part in _END.split(text):
        if merged and _ABBREVIATION.search(merged[-1]):
            merged[-1] = f"{merged[-1]} {part}"
        else:
            merged.append(part)
    return tuple(part.strip() for part in merged if part.strip(" \t.,;:!?-–…"))
