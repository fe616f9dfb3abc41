"""What goes over the wire, in the form of OpenAI's API: requests, answers whole or in pieces, and errors."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

# Parameters that are not honoured, with the values that ask for nothing; other unknown ones change no text.
OFF: dict[str, tuple[Any, ...]] = {"echo": (False,), "suffix": ("",), "logit_bias": ({},)}
OFF |= dict.fromkeys(("n", "best_of"), (1,)) | dict.fromkeys(("frequency_penalty", "presence_penalty"), (0,))
OFF |= dict.fromkeys(("tools", "functions"), ([],)) | {"response_format": ({"type": "text"},), "audio": ()}
OFF |= {"tool_choice": ("none", "auto"), "function_call": ("none", "auto"), "modalities": (["text"],)}
KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 408: "timeout_error"}

Stop = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class Own(BaseModel):
    """What only this server understands. policy: one of those loaded, null for plain decoding."""

    model_config = ConfigDict(strict=True, extra="forbid")
    policy: str | None = None


class Asked(BaseModel):
    """What requests of both kinds have; what is not given is as `lede generate` has it."""

    model_config = ConfigDict(strict=True, extra="allow")
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    lede: Own | None = None

    @property
    def prompt_(self) -> Any:
        """What `decode.generate.encode` takes."""
        raise NotImplementedError

    @property
    def group(self) -> str:
        """What this request shares with others of its conversation; empty: nothing."""
        return ""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def alternatives(self) -> int | None:
        """How many of the likeliest tokens are asked for with the log p of each; None: not even that."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ApiError for a parameter that is not honoured."""
        if self.stream and self.alternatives is not None:
            raise ApiError(400, "logprobs are given with whole answers: leave out stream", "logprobs")
        for name, value in (self.model_extra or {}).items():
            off = [one for one in OFF.get(name, (value,)) if isinstance(one, bool) == isinstance(value, bool)]
            if value is not None and value not in off:
                raise ApiError(400, f"{name} is not supported here: leave it out", name, "unsupported_parameter")


class Completion(Asked):
    """A request to go on from a text, or from token ids."""

    prompt: str | list[int] | Annotated[list[str] | list[list[int]], Field(min_length=1, max_length=1)]
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def alternatives(self) -> int | None:
        return self.logprobs

    @property
    def prompt_(self) -> Any:
        first = self.prompt[0] if self.prompt else None
        return first if isinstance(first, str | list) and not isinstance(self.prompt, str) else self.prompt


class Part(BaseModel):
    """A part of a message; text alone is understood."""

    model_config = ConfigDict(strict=True)
    type: Annotated[str, Field(pattern="^text$")]
    text: str


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(strict=True)
    role: str
    content: str | list[Part]


class Chat(Asked):
    """A request to answer a conversation."""

    messages: list[Message] = Field(min_length=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def prompt_(self) -> Any:
        texts = [m.content if isinstance(m.content, str) else "".join(p.text for p in m.content) for m in self.messages]
        return [{"role": m.role, "content": text} for m, text in zip(self.messages, texts, strict=True)]

    @property
    def group(self) -> str:
        """All up to what its user says first."""
        said = self.prompt_
        first = next((i for i, message in enumerate(said) if message["role"] == "user"), 0)
        return json.dumps(said[: first + 1])


class Swap(BaseModel):
    """A folder to load a policy from, in place of the one of that name (of the first); neither: read all anew."""

    model_config = ConfigDict(strict=True, extra="forbid")
    policy: str | None = None
    folder: str | None = None


class ApiError(HTTPException):
    """An error that a client is told, with the name of the parameter that it is about and a code, where there are."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(status, message)
        self.param, self.code = param, code


def error_body(error: HTTPException) -> dict[str, Any]:
    """An error in OpenAI's form."""
    status = error.status_code
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    about = {name: getattr(error, name, None) for name in ("param", "code")}
    return {"error": {"message": error.detail, "type": kind, **about}}


def response(content: Any, status: int = 200, headers: Any = None) -> Response:
    """JSON in ASCII: a text may hold halves of characters, which UTF-8 has not."""
    return Response(json.dumps(content), status, headers, "application/json")


@dataclass(frozen=True)
class Form:
    """How one answer is written: a chat's or a text's, whole or in pieces."""

    chat: bool
    model: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, finish: str, usage: dict[str, Any], logprobs: Any) -> dict[str, Any]:
        """The answer."""
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        said |= {"finish_reason": finish, "logprobs": logprobs}
        return self._object("chat.completion", [said]) | {"usage": usage}

    def logprobs(self, piece: Callable[[int], bytes], said: list[list[tuple[int, float]]]) -> dict[str, Any]:
        """`Job.said`; `piece` gives the bytes of a token."""

        def told(token: int, logp: float) -> dict[str, Any]:
            return {"token": piece(token).decode(errors="replace"), "logprob": logp, "bytes": [*piece(token)]}

        tokens = [[told(*one) for one in ones] for ones in said]
        if self.chat:
            return {"content": [first | {"top_logprobs": rest} for first, *rest in tokens], "refusal": None}
        texts = [first["token"] for first, *_ in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [first["logprob"] for first, *_ in tokens],
            "top_logprobs": [{one["token"]: one["logprob"] for one in reversed(rest)} for _, *rest in tokens],
            "text_offset": [*accumulate(map(len, texts[:-1]), initial=0)],
        }

    def piece(self, text: str, finish: str | None = None, first: bool = False) -> dict[str, Any]:
        """A piece of the answer: text, or the end."""
        delta = ({"role": "assistant"} if first else {}) | ({} if finish else {"content": text})
        said: dict[str, Any] = {"delta": delta} if self.chat else {"text": text}
        return self._object("chat.completion.chunk", [said | {"finish_reason": finish}])

    def last(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The piece with the usage."""
        return self._object("chat.completion.chunk", []) | {"usage": usage}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        prefix, kind = ("chatcmpl", kind) if self.chat else ("cmpl", "text_completion")
        about = {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}
        return about | {"choices": [{"index": 0, "logprobs": None} | choice for choice in choices]}


def event(content: Any) -> str:
    """A server-sent event."""
    return f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n"
