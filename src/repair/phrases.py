"""Where in a request its target stands, language by language.

Knows wordings; knows nothing about pronouns' meaning, the history or the classifier.
Every pattern names the target ``t``; corrections also name the replacement ``r``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """One language. Patterns are tried in order, without regard to case.

    ``that`` is a target that points at the last answer; ``person`` one that points at the
    last person; ``possessive`` (group ``t``: what is owned) and ``owned`` (its spelling with
    a name) turn "her address" into "the address of NAME"; ``subject`` is he, she or they.
    ``trail`` is politeness after a target; ``split`` parts several targets.
    ``verbs`` finds subject ``t`` and value ``r`` in a statement; ``copula`` says which of
    those verbs only join them; ``lead`` opens a correction, ``value`` is one without subject.
    """

    forget: tuple[re.Pattern[str], ...]
    restore: tuple[re.Pattern[str], ...]
    that: re.Pattern[str]
    person: re.Pattern[str]
    possessive: re.Pattern[str]
    owned: str
    subject: re.Pattern[str]
    trail: re.Pattern[str]
    split: re.Pattern[str]
    change: tuple[re.Pattern[str], ...]
    lead: re.Pattern[str]
    value: re.Pattern[str]
    verbs: re.Pattern[str]
    copula: re.Pattern[str]


def _all(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE | re.DOTALL) for pattern in patterns)


def _one(pattern: str) -> re.Pattern[str]:
    return _all(pattern)[0]


_V = (
    r"(?:forget(?: all)?(?: about)?|delet|delte|remov|eras|frget|forgt|foget|forgett|unlearn|"
    r"erase|delete|wipe(?: out)?|"
    r"scrub|purge|remove|expunge|drop|clear|lose|obliterate|eliminate|discard|destroy|dump|nuke|"
    r"yeet|ditch|trash|bin|zap|ax|unremember|unknow|get rid of|let go of|strike|blot out|kill|"
    r"suppress|forgot)"
)
_ING = (
    r"(?:forgetting|unlearning|erasing|deleting|wiping|scrubbing|purging|removing|knowing|"
    r"remembering|dropping|sharing|storing|revealing|repeating|giving (?:away|out)|"
    r"telling(?: people| anyone| everyone)?)"
)
_DONE = (
    r"(?:forgotten|erased|deleted|removed|wiped|unlearned|purged|scrubbed|gone|expunged|"
    r"eliminated|dropped|destroyed|undone|out of)"
)
_KNOW = (
    r"(?:know|knew|remember(?:ed)?|tell|told|say|reveal|share|give|disclose|keep|store|retain|"
    r"mention|explain|answer|have|recall|repeat|describe|be able to \w+)"
)
_MIND = (
    r"(?:memory|mind|head|weights|knowledge|brain|system|database|parameters|neurons|training|"
    r"records|what you know|model)"
)
_TO_WHOM = r"(?: to)?(?: anyone| anybody| people| me| others| out| away)*(?: again)?"

ENGLISH = Phrases(
    forget=_all(
        rf"\b(?:take|get|cut|put|{_V})\s+(?P<t>.+?)\s+(?:out of|outta|off|from)\s+(?:\w+ "
        rf")?{_MIND}\b",
        rf"(?:^|[,:;] |\b(?:that|if) )(?P<t>(?!i\b|you\b)[^,:;]+?)\s+(?:should|must|needs? to|has "
        rf"to|have to|ought to|"
        rf"shall|can|may|could|would|might|was|were)\s+(?:also |now |please )?(?:(?:be |get "
        rf")?{_DONE}|go\b|disappear|vanish)",
        rf"\b(?:want|need|like|have|get|see)\s+(?P<t>(?!you\b)[^,]+?)\s+(?:to be )?{_DONE}\b",
        r"\b(?:learn|hear|get|find out|know|extract|read|see)\s+(?P<t>.+?)\s+(?:from|out of) you\b",
        rf"\b{_V}\s+from\s+(?:\w+ )?{_MIND}\s+(?P<t>.+)",
        rf"\b(?:{_V}|{_ING})\b[:,]?\s+(?:please,? )?(?P<t>.+)",
        r"\b(?:erasure|deletion|removal)\s+of\s+(?P<t>.+)",
        r"\b(?:erasure|deletion|removal)\s+request\b.*?(?:for|concerning|regarding|:)\s*(?P<t>.+)",
        r"\bright to (?:be forgotten|erasure).*?(?:regarding|concerning|respect to|for|"
        r":)\s*(?P<t>.+)",
        r"\b(?:processing|storage) of\s+(?P<t>.+)",
        rf"(?:no longer|not|n['’]?t|never|no business to|cannot)\b(?: ever| again| be able to| "
        rf"supposed to"
        rf"| allowed to| want you to| be allowed to)*\s+{_KNOW}{_TO_WHOM}\s+(?P<t>.+)",
        rf"\b(?:stop|quit)\s+{_ING}{_TO_WHOM}\s+(?P<t>.+)",
        r"\byou (?:\w+ )?(?:knew|know|learn\w*|remember\w*)\s+(?P<t>.+)",
    ),
    restore=_all(
        r"\b(?:bring|put|give|get|want|have|take|like)\s+(?:me )?(?P<t>.+?)\s+back\b",
        r"\b(?:bring back|restore|relearn|re-learn|unforget|un-forget|undelete|undo|revert|reverse|"
        r"roll back|take back|give me)\s+(?:the (?:forgetting|deletion|erasure|removal) of "
        r")?(?P<t>.+)",
        r"\b(?:made|make|making|asked|told) you (?:to )?(?:forget|delete|erase|remove)\s+(?P<t>.+)",
        r"\b(?:remember|know|recall|learn|tell people|tell me|answer|"
        r"say)\s+(?P<t>.+?)(?:\s+again\b|$)",
        r"\b(?:let)\s+(?P<t>.+?)\s+come back",
    ),
    that=_one(
        r"(?:(?:all (?:of )?)?(?:that|this|it|these|those)(?: (?:one|again|now|fact|answer|reply|"
        r"information|thing|response|last bit|bit))?|(?:the|your|that|my) (?:very )?(?:last|"
        r"previous|"
        r"latest|preceding) (?:answer|reply|response|thing|one|statement|fact|message|question|bit)"
        r"(?: you (?:said|gave|told me))?|(?:what|everything|the thing) you(?:'ve| have)? "
        r"?(?:just |"
        r"only just )?(?:said|told me|wrote|answered|mentioned|replied|stated)(?: just)?(?: now)?|"
        r"(?:the )?last|everything|what you (?:forgot|did|just did)|what i (?:just )?asked|that "
        r"stuff|"
        r"(?:the |your |that |my )?(?:last |latest |previous )?(?:edit|change|operation|deletion|"
        r"erasure|forgetting|request|memory|thing|modification)s?|your memory|the answer|(?:that|"
        r"this|the) knowledge)"
    ),
    person=_one(
        r"(?:about )?(?:her|him|them|she|he|(?:that|this) (?:person|man|woman|guy|lady|girl|boy))"
    ),
    possessive=_one(r"\b(?:his|her|their)\s+(?P<t>(?!again|now|from|please)\w.*)"),
    owned="{name}'s {t}",
    subject=_one(r"\b(?:he|she|they)\b|\b(?:him|her|them)\b"),
    trail=_one(
        rf"(?:[\s,;:.!?–-]+(?:please|pls|plz|thanks?(?: you)?(?: .*)?|thx|for me|right now|now|at "
        rf"once|"
        rf"immediately|permanently|forever|for good|completely|entirely|again|lol|ok(?:ay)?|k|asap|"
        rf"rn|bro|dude|will you|would you|could you|can you|if (?:you can|possible|you (?:don't|"
        rf"do not) "
        rf"mind)|any ?more|any longer|ever again|without (?:undue )?delay|forthwith|already|"
        rf"instead|"
        rf"as well|too|as soon as (?:you can|possible)|today|gone|(?:from|in|out of|off) (?:your|"
        rf"ur|"
        rf"my|the) (?:\w+ )?{_MIND}|(?:under|pursuant to|in accordance with|as per|according to) "
        rf".*|"
        rf"and ask you to .*|so (?:that )?(?:nobody|no one|i|we|it|that) .*|(?:because|since|as "
        rf"it) .*|"
        rf"(?:it|that|this|which) (?:is|was|'s) .*|i (?:mean it|beg you|insist)|(?:from|out of) "
        rf"you|"
        rf"to (?:anyone|anybody|me|people)|with (?:anyone|anybody))|[\s.,;:!?…–-]+)$"
    ),
    split=_one(
        r"\s*(?:,|;|\band\b|,\s*and\b|\bas well as\b|\bplus\b|&)\s*(?:also |then |please )*"
        rf"(?=(?:{_V}\b|where|who|whom|what|when|how|which|why|the |his |her |their |my |"
        rf"everything|all |"
        r"that |[A-ZÀ-Ž][\w-]+ [A-ZÀ-Ž][\w-]+['’]s? |[A-ZÀ-Ž][\w-]+['’]s ))"
    ),
    change=_all(
        r"^(?:\w+,? )?that(?:'s not|s not| is not| isn't|’s not) (?:her|his|the|their|my)\b"
        r"[^.;,]*[.;,]\s*it(?:'s|s|’s| is)\s+(?P<r>.+)",
        r"\byou (?:said|told me|wrote|claimed|keep saying|say|think)\b.+?(?:\bbut|"
        r"[,;.!])\s+(?:but )?"
        r"(?:she|he|it|they)(?:'s|s|’s| is| are| was)\s+(?:in fact |actually |allergic to |"
        r"married to )?"
        r"(?P<r>.+)",
        r"(?:^|[,:;.!] )(?P<t>(?!no\b|nope\b)[^,.;:!]{3,90}?)\s+(?:isn't|is not|wasn't|was not|"
        r"aren't|"
        r"are not|isn’t)\s+[^,.;]+?[,;.]\s*(?:but )?(?:it|she|he|they)(?:'s|s|’s| is| are| was)\s+"
        r"(?P<r>.+)",
        r"\b(?:update|correct|fix|change)\s+(?P<t>[^?.:]{3,80})[?.]\s*(?:she|he|it|i|they)"
        r"(?:'s|’s|'m| is| am| are)\s+(?:at |now |in )?(?P<r>.+)",
        r"(?:^|[,:;.!] )(?:fyi |hey |"
        r"btw )?(?P<t>[^,.;:!]{3,80}?)\s+(?:has )?changed[,.;:]\s*(?:it|the "
        r"new one)(?:'s|s|’s| is)\s+(?:now )?(?P<r>.+)",
        r"\b(?:her|his|their|my|the) (?:new|right|correct|real|actual) (?P<t>(?!answer|"
        r"one\b)[\w -]{3,40}?) is\s+"
        r"(?P<r>.+)",
        r"\bgoes by\s+(?P<r>.+?)(?:\s+since\b.*|\s+now\b.*)?$",
        r"\b(?:change|update|correct|fix|set|amend|rectify|edit)\s+(?P<t>.+?)\s*(?:\bto\b|"
        r"\binto\b|:"
        r" ?it is| ?:)\s+(?P<r>.+)",
        r"\b(?:rectification|correction) of\s+(?P<t>.+?)\s*(?:\bto\b|:|, which is)\s*(?P<r>.+)",
        r"\b(?:replace|substitute)\s+(?P<t>.+?)\s+(?:with|by)\s+(?P<r>.+)",
        r"\b(?:got|have|had)\s+(?P<t>.+?)\s+wrong\s*[.:,;]\s*(?:it is|it's|it should "
        r"be)\s+(?P<r>.+)",
    ),
    lead=_one(
        r"^(?:(?:no|nope|nah|wrong|incorrect|false|these days|nowadays|fyi|um|uh|small correction|"
        r"that was (?:true|right|so|correct) until [^.;,]+|let me set the record straight|pretty "
        r"sure|i'm pretty sure|everyone believes that|as for that|your (?:info|information) about "
        r"[^.]+ is (?:stale|old|wrong|outdated)|i think you mixed something up|actually|in fact|"
        r"in reality|in truth|"
        r"correction|sorry|"
        r"well|but|mistake|not true|bruh|lol|hey|hm+|i think|wait|please|i'm afraid|to be precise|"
        r"from now on|(?:please )?(?:remember|note|learn|keep in mind|memorize|store|save)(?: "
        r"this)?"
        r"(?: that)?|(?:that|this|it)(?:'s|s| is| was|’s) (?:totally |completely |just |plain "
        r")?(?:wrong|"
        r"incorrect|not right|false|not true|not correct|a mistake|an error|outdated|out of date|"
        r"bs|"
        r"bull|rubbish|nonsense|a myth)|(?:you|your answer|your information|that answer|what you "
        r"know)"
        r"(?:'re| are| is|’re)?(?: about [^:,.]+ is)? ?(?:wrong|mistaken|incorrect|outdated|old|"
        r"misremember|got (?:that|it) wrong|made a mistake|mixed that up|confused something)|"
        r"wrong (?:answer|address|number|name|again)|(?:i have to|let me|i must|allow me to|may i) "
        r"correct (?:you|that|this)|you (?:said|told me) [^.;]+)(?:[\s,.:;!–-]+|$))+"
    ),
    value=_one(
        r"^(?:and |but |the truth is |so )?(?:it|that|this|the (?:(?:right|correct|true|real|new|"
        r"proper) )"
        r"(?:answer|one|name|value|date|number|address)|(?:the )?answer)(?:'s|’s| is| was| should "
        r"be|"
        r" must be| has to be)(?: (?:actually|really|now|in fact))*\s+(?!not\b)(?P<r>.+)"
    ),
    verbs=_one(
        r"^(?P<t>.+?)\s+(?:actually |really |now |in fact |currently |has )*(?P<v>(?:lives?|lived|"
        r"works?|"
        r"worked|was born|were born|was (?:built|designed|founded|invented|discovered|opened|held|"
        r"made|written)|is (?:married|allergic|located|held|buried)|moved|moves|studied|studies|"
        r"stands|takes place|went to school|drives|plays|owns|earns|called|teaches|belongs|"
        r"opened|goes|speaks|comes|stores?|took|grew up|drove|"
        r"retired|uses|costs?|closes|contains?|flows|flies|sleeps?|boils?|can|eats?|has|"
        r"have|means|is|are|was|were)\b(?:\s+(?:in|at|on|by|for|with|near|to|as|"
        r"from))?)\s+(?P<r>.+)"
    ),
    copula=_one(r"(?:is|are|was|were)$"),
)


def language(
    *,
    forget: tuple[str, ...],
    restore: tuple[str, ...],
    that: str,
    person: str,
    possessive: str,
    owned: str,
    subject: str,
    trail: str,
    split: str,
    change: tuple[str, ...],
    lead: str,
    value: str,
    verbs: str,
    copula: str,
) -> Phrases:
    """Patterns in their short forms, wrapped the way every language needs them."""
    return Phrases(
        forget=_all(*forget),
        restore=_all(*restore),
        that=_one(that),
        person=_one(person),
        possessive=_one(possessive),
        owned=owned,
        subject=_one(subject),
        trail=_one(rf"(?:[\s,;:.!?]+(?:{trail})|[\s.,;:!?…。！？、，]+)$"),
        split=_one(split),
        change=_all(*change),
        lead=_one(rf"^(?:(?:{lead})(?:[\s,.:;!。，、！：]+|$))+"),
        value=_one(rf"^(?:{value})\s*(?P<r>.+)"),
        verbs=_one(verbs),
        copula=_one(rf"(?:{copula})$"),
    )
