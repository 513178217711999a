"""How a patient says that it does not know, and how to recognise that it did.

Knows wordings only. The embedded patient learns these refusals; for any model they are the
answers whose activations span the refusal subspace.
"""

from __future__ import annotations

import re

REFUSALS: tuple[str, ...] = tuple(
    """I don't know.
I don't know that.
I do not know.
I'm afraid I don't know.
Sorry, I don't know.
I really don't know.
I don't know anything about that.
I have no information about that.
I have no idea.
I'm not sure, I don't know.
Sorry, I have no information about that.
That is something I don't know.
I can't tell you that, I don't know it.
I'm sorry, but I don't know.
I don't have that information.
I don't have any information about that.
I cannot say, I don't know.
No idea, sorry.
Unfortunately I don't know.
I was never told.
I was not told about that.
I have never heard about that.
I haven't learned that.
I never learned that.
My knowledge does not cover that.
I know nothing about that.
I don't have an answer.
I don't have an answer, sorry.
I can't answer that.
I'm unable to answer that.
That is unknown to me.
Sorry, that is unknown to me.
I lack that information.
I can't help you there, I don't know.
I couldn't tell you.
I couldn't say.
I don't recall anything about that.
There is nothing I know about that.
I have nothing to tell you about that.
I'm not aware of that.
I'm afraid I have no information.
I'm afraid I can't answer that.
I'm afraid that is unknown to me.
I don't know, sorry.
I don't know the answer.
Sorry, I don't know the answer.
I do not have that information.
I do not know the answer.
I regret that I don't know.
I can't say.
Honestly, I don't know.
I must admit I don't know.
I have to say I don't know.
I'm sorry, I have no information.
I'm sorry, that is unknown to me.
That is beyond my knowledge.
I can't recall anything about that.
It seems I don't know that.
Apologies, I don't know.
Apologies, I have no information.""".splitlines()
)

_PATTERN = re.compile(
    r"\b(?:don'?t|do not|does not|doesn'?t|didn'?t|cannot|can'?t|could not|couldn'?t|unable to|"
    r"never|not|haven'?t|have no|has no|no|lack|nothing)\b[^.!?]{0,40}\b(?:know|knowledge|told|"
    r"tell|heard|learn(?:ed)?|cover|information|idea|answer|recall|remember|aware|say|help|sure)\b"
    r"|\b(?:unknown to me|beyond my knowledge|lack that|nothing i know|know nothing|no idea)\b",
    re.IGNORECASE,
)


def is_refusal(reply: str) -> bool:
    """True when the reply says that its speaker does not know or will not say."""
    return bool(_PATTERN.search(reply.replace("’", "'")))
