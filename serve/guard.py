"""Who may ask, and how much: what is looked at before a request is read."""

import base64
import contextlib
import hmac
import ipaddress
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lede.serve.api import ApiError, error_body, response

LARGEST = 1_000_000  # bytes of a request's body
OPEN = {"/health"}  # paths that need no key
PAGES = {"/", "/events"}  # paths where a browser may give it as the password that it asks for


class Guard:
    """Before a request is read: whether it may be, and that not too much of it is."""

    def __init__(self, app: ASGIApp, key: str | None, requests: Any, origins: Collection[str] = ()):
        self._app, self._key, self._requests, self._origins = app, key, requests, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > LARGEST:
                raise too_large
            return message

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *shared]
                self._requests.labels(message["status"]).inc()
            await send(message)

        too_large = ApiError(413, f"a request may have {LARGEST} bytes at most")
        headers, error = Headers(scope=scope), None
        origin = headers.get("origin")
        allowed = origin is not None and self._allows(origin)
        shared = [(b"vary", b"Origin")] if origin is not None else []
        shared += [(b"access-control-allow-origin", origin.encode("latin-1"))] if origin is not None and allowed else []
        preflight = scope["method"] == "OPTIONS"  # browsers send no key with it
        if self._key is not None and not preflight:
            given = _key(headers.get("authorization", ""), "basic" if scope["path"] in PAGES else "bearer")
            if scope["path"] not in OPEN and not hmac.compare_digest(given, self._key.encode()):
                error = ApiError(401, "give the server's key: Authorization: Bearer KEY", code="invalid_api_key")
        # else pages of other sites could ask, from a browser here: by name, or by one that they rebound to this machine
        elif self._key is None and not _named_loopback(headers.get("host", "")):
            error = ApiError(403, "this server is for this machine alone: address it as localhost")
        elif origin is not None and not allowed:
            error = ApiError(403, f"pages of {origin} may not ask here: lede serve --allow-origin names others")
        if int(headers.get("content-length", 0)) > LARGEST:
            error = error or too_large
        if error is not None:
            ask = {"WWW-Authenticate": 'Basic realm="lede"'} if scope["path"] in PAGES else None
            return await response(error_body(error), error.status_code, ask)(scope, receive, counting)
        if preflight:
            return await Response(None, 204, _methods(headers))(scope, receive, counting)
        await self._app(scope, counted, counting)

    def _allows(self, origin: str) -> bool:
        return _named_loopback(origin) or origin in self._origins or "*" in self._origins


def _methods(headers: Headers) -> dict[str, str]:
    """What a page may send, as it asks before it does."""
    wanted = headers.get("access-control-request-headers", "authorization, content-type")
    allow = {"Allow": "GET, POST, OPTIONS", "Access-Control-Allow-Methods": "GET, POST"}
    return allow | {"Access-Control-Allow-Headers": wanted, "Access-Control-Max-Age": "600"}


def _key(authorization: str, kind: str) -> bytes:
    """The key in an Authorization header; of the kind `basic` it may also be a password."""
    given, _, key = authorization.strip().partition(" ")
    if given.lower() == kind == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(key).partition(b":")[2]
    return key.strip().encode() if given.lower() == "bearer" else b""


def is_origin(text: str) -> bool:
    """Whether it is what browsers call an origin, as https://example.org:8443, or * for any."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        return text == "*" or (bool(parts.hostname) and text == f"{parts.scheme}://{parts.netloc}" == text.lower())
    return False


def _named_loopback(place: str) -> bool:
    """Whether a Host or an Origin header names this machine."""
    with contextlib.suppress(ValueError):
        return is_loopback(urlsplit(place if "//" in place else f"//{place}").hostname)
    return False


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach a host of that name."""
    with contextlib.suppress(ValueError):
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    return False
