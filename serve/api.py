"""What goes over the wire, in the form of OpenAI's API: answers whole or in pieces, and errors."""

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 408: "timeout_error"}


class ApiError(HTTPException):
    """An error that a client is told, with the name of the parameter that it is about and a code, where there are."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, again: bool | None = None
    ):  # again: whether the client's own library should try again, if not as it would
        super().__init__(status, message, None if again is None else {"x-should-retry": str(again).lower()})
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

    def logprobs(
        self, piece: Callable[[int], bytes], said: list[list[tuple[int, float]]], offsets: list[int]
    ) -> dict[str, Any]:
        """`Job.said`; `piece` gives the bytes of a token, `offsets` are where in the text each token begins."""

        def told(token: int, logp: float) -> dict[str, Any]:
            return {"token": spelled(piece(token)), "logprob": logp, "bytes": [*piece(token)]}

        tokens = [[told(*one) for one in ones] for ones in said]
        if self.chat:
            return {"content": [first | {"top_logprobs": rest} for first, *rest in tokens], "refusal": None}
        return {
            "tokens": [first["token"] for first, *_ in tokens],
            "token_logprobs": [first["logprob"] for first, *_ in tokens],
            "top_logprobs": [{one["token"]: one["logprob"] for one in reversed(rest)} for _, *rest in tokens],
            "text_offset": offsets,
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


def spelled(piece: bytes) -> str:
    """A token's text; its bytes, as OpenAI spells them, where it begins or ends inside a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def event(content: Any) -> str:
    """A server-sent event."""
    return f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n"
