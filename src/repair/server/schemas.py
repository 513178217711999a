"""The bodies of requests, validated; what OpenAI's clients send beside them is passed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from repair.types import Message

MOST_CHARACTERS = 200_000
MOST_ANSWERS = 8


def _readable(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text has lone surrogates, which no model reads")
    return text


Words = Annotated[str, AfterValidator(_readable), Field(max_length=MOST_CHARACTERS)]
Line = Annotated[str, AfterValidator(_readable), Field(min_length=1, max_length=2000)]


class ImageUrl(BaseModel):
    """Where a picture is: in the URL itself (``data:``)."""

    url: str


class Part(BaseModel):
    """One part of a message's content: text, or a picture; others are passed over."""

    type: str = "text"
    text: Words = ""
    image_url: ImageUrl | None = None

    def plain(self, show: Callable[[str], str]) -> str:
        """The part as it stands in a message's text; ``show`` gives a picture's reference."""
        if self.type == "image_url" and self.image_url is not None:
            return show(self.image_url.url)
        return self.text if self.type == "text" else ""


class ChatMessage(BaseModel):
    """One message; developer counts as system, tool as user."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Words | list[Part] | None = None

    def plain(self, show: Callable[[str], str]) -> Message:
        """The message as the patient reads it; see `Part.plain`."""
        content = self.content or ""
        if not isinstance(content, str):
            content = "\n".join(filter(None, (part.plain(show) for part in content)))
        roles = {"developer": "system", "tool": "user"}
        return {"role": roles.get(self.role, self.role), "content": content}


class StreamOptions(BaseModel):
    include_usage: bool = False


class Extras(BaseModel):
    """What this server understands beside OpenAI's fields, under the name ``repair``.

    ``scope`` own keeps a curator's edit to their own conversations. ``edit`` False answers
    without ever reading the turn as a request; ``kind`` says that it is one, and of what.
    """

    scope: Literal["everyone", "own"] = "everyone"
    edit: bool = True
    kind: Literal["forget", "correct"] | None = None


class ChatRequest(BaseModel):
    """``POST /v1/chat/completions``."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    messages: list[ChatMessage] = Field(min_length=1, max_length=2000)
    model: Words | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int | None = Field(default=None, ge=1, le=MOST_ANSWERS)
    stop: Line | Annotated[list[Line], Field(max_length=4)] | None = None
    repair: Extras = Extras()

    def plain(self, show: Callable[[str], str]) -> list[Message]:
        """All messages as the patient reads them; see `Part.plain`."""
        return [message.plain(show) for message in self.messages]

    def stops(self) -> tuple[str, ...]:
        """Where an answer is cut."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class EditRequest(BaseModel):
    """``POST /v1/edits``: one request in plain words, without a conversation."""

    text: Annotated[str, AfterValidator(_readable), Field(min_length=1, max_length=20_000)]
    kind: Literal["forget", "correct"] | None = None
    dry_run: bool = False
    yes: bool = False
    strength: float = Field(default=1.0, ge=0, le=1, allow_inf_nan=False)
    scope: Literal["everyone", "own"] = "everyone"


class Strength(BaseModel):
    """``POST /v1/edits/{id}/strength``."""

    strength: float = Field(ge=0, le=1, allow_inf_nan=False)


class Switch(BaseModel):
    """``PUT /v1/facts``: whether answers are held to the trusted facts."""

    on: bool


class Accepting(BaseModel):
    """``POST /v1/facts/{line}/correct``; ``yes`` goes ahead whatever it costs."""

    yes: bool = False


class Subject(BaseModel):
    """``POST /v1/knowledge``."""

    subject: Line


class Text(BaseModel):
    """``POST /v1/plan``."""

    text: Annotated[str, AfterValidator(_readable), Field(min_length=1, max_length=20_000)]


def openai_error(message: str, code: str, status: int) -> dict[str, Any]:
    """An error as OpenAI's clients expect it."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
