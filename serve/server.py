"""An OpenAI-compatible server: `app` is what `lede serve` runs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from lede.decode.errors import ModelError
from lede.decode.facts import model_facts
from lede.decode.generation_config import request as settings_for
from lede.decode.model import Model
from lede.decode.round import Generation
from lede.decode.rules import Autoregressive, ExitRule, QPolicy
from lede.decode.stops import StopStrings
from lede.policy import Policy, PolicyError, check_fits, load_policy
from lede.serve import api, live
from lede.serve.adjust import adjusting
from lede.serve.api import ApiError
from lede.serve.asked import Asked, Chat, Completion, Own, StreamOptions, Swap
from lede.serve.guard import Guard
from lede.serve.stream import Answer
from lede.serve.worker import Job, Worker

CHAT_TOKENS = 1024  # of an answer at most, where nobody says how many: most end by themselves
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": "An error in OpenAI's form.", "content": {"application/json": {}}}
    for status in ("4XX", "5XX")
}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {}, "text/event-stream": {}}}}


class Policies:
    """The policies that requests can name; those that name none get the first."""

    def __init__(self, model: Model, folders: dict[str, Path]):
        self._facts, self.folders = model_facts(model), dict(folders)
        self._loaded: dict[str, Policy] = {}
        self.swap()

    def swap(self, name: str | None = None, folder: str | Path | None = None) -> None:
        """Load one from a folder, or all anew. Raises PolicyError, and all stay as they were."""
        folders = dict(self.folders)
        if folder is not None:
            folders[name or next(iter(folders), Path(folder).name)] = Path(folder)
        loaded = {key: load_policy(path) for key, path in folders.items()}
        for policy in loaded.values():
            check_fits(policy, self._facts)
        self.folders, self._loaded = folders, loaded

    @property
    def first(self) -> Policy | None:
        """The one of requests that name none."""
        return next(iter(self._loaded.values()), None)

    def rule(self, own: Own | None, steer: Callable[[Policy], ExitRule] = QPolicy) -> ExitRule:
        """The exit rule of one request. Raises ApiError where there is no such policy."""
        loaded = self._loaded
        name = own.policy if own is not None and "policy" in own.model_fields_set else next(iter(loaded), None)
        if name is None:
            return Autoregressive()
        if name not in loaded:
            there = f"there are {', '.join(loaded)}" if loaded else "there are none"
            raise ApiError(400, f"there is no policy {name!r}: {there}", "lede.policy", "policy_not_found")
        return steer(loaded[name])


@dataclass(frozen=True)
class Limits:
    """Who may ask, and for what.

    seconds: from a request to the end of its answer. prompt: tokens. key: None where none is needed. origins: whose
    pages may ask, beside this machine's, as https://example.org; *: any.
    """

    seconds: float = 600
    prompt: int | None = None
    key: str | None = None
    origins: tuple[str, ...] = ()


def app(
    model: Model,
    policies: Policies,
    worker: Worker,
    limits: Limits,
    steer: Callable[[Policy], ExitRule] = QPolicy,
) -> FastAPI:
    """The server's application."""
    from importlib.metadata import version

    made = FastAPI(title="lede", version=version("lede"), docs_url=None, redoc_url=None, responses=ERRORS)
    made.add_middleware(Guard, key=limits.key, origins=limits.origins, requests=worker.metrics.requests)
    made.add_exception_handler(HTTPException, _told)
    made.add_exception_handler(RequestValidationError, _told)
    card = {"id": model.name, "object": "model", "created": 0, "owned_by": "lede"}

    def prepared(asked: Asked, tell: Callable[[Any], None]) -> Job:
        """The job of a request. Raises ApiError for one that cannot work."""
        asked.check()
        if asked.model not in (None, model.name):
            raise ApiError(404, f"there is no model {asked.model!r}: this is {model.name}", "model", "model_not_found")
        try:
            ids = asked.ids(model)
            longest = min(limits.prompt or model.context, model.context - 1)
            if len(ids) > longest:
                what = f"the prompt has {len(ids)} tokens, and {longest} is the most here: shorten it"
                raise ApiError(400, what, code="context_length_exceeded")
            most, given = asked.most, asked.options(model)
            if isinstance(asked, Chat) and not {"max_new_tokens", "max_length"} & model.generation_config.keys():
                most = most or CHAT_TOKENS
            if most is not None:
                given["max_new_tokens"] = min(most, model.context)
            settings = settings_for(model, len(ids), given, asked.seed, adjusting(model, asked, len(ids)))
            keep, special = bool(asked.include_stop_str_in_output), asked.skip_special_tokens is False
            text = Answer(model, asked.stops, keep, special, asked.min_tokens or 0, asked.alternatives is not None)
        except (ModelError, UnicodeEncodeError) as error:
            raise ApiError(400, str(error)) from None
        return Job(ids, settings, policies.rule(asked.lede, steer), text, asked.group, tell, asked.alternatives)

    async def answer(request: Request, asked: Asked) -> Response:
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def tell(what: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(events.put_nowait, what)

        if worker.imports.is_alive() and not asked.plain(model):
            await asyncio.to_thread(worker.imports.join)
        deadline = loop.time() + limits.seconds
        job = await asyncio.to_thread(prepared, asked, tell)
        form = api.Form(isinstance(asked, Chat), model.name)
        form = replace(form, id=asked.request_id) if asked.request_id else form
        told = _until(events, deadline)
        if asked.stream:
            first = await _unless_gone(request, lambda: anext(told), job, worker)
            return _Stream(_pieces(form, asked.stream_options, first, told), lambda: worker.cancel(job))

        async def whole() -> list[Any]:
            return [what async for what in told]

        *texts, done = await _unless_gone(request, whole, job, worker)
        said = (
            None
            if asked.alternatives is None
            else form.logprobs(StopStrings(model, ()).piece, job.said, job.answer.offsets)
        )
        return api.response(form.whole("".join(texts), _finish(done), _usage(done), said))

    @made.post("/v1/completions", responses=STREAM)
    async def completions(request: Request, asked: Completion) -> Response:
        """Go on from a prompt."""
        return await answer(request, asked)

    @made.post("/v1/chat/completions", responses=STREAM)
    async def chat(request: Request, asked: Chat) -> Response:
        """Answer a conversation."""
        return await answer(request, asked)

    @made.get("/", include_in_schema=False)
    async def page() -> Response:
        """What is written, drawn as it is."""
        return live.page(model, policies.first)

    @made.get("/events", include_in_schema=False)
    async def events() -> Response:
        """See `live.events`."""
        return live.events(model, worker)

    @made.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The model that is served."""
        return {"object": "list", "data": [card]}

    @made.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        """The model of that name."""
        if name != model.name:
            raise ApiError(404, f"there is no model {name!r}: this is {model.name}", "model", "model_not_found")
        return card

    @made.get("/health")
    async def health() -> dict[str, str]:
        """Whether requests are taken."""
        if worker.closing:
            raise ApiError(503, "the server is stopping")
        return {"status": "ok", "model": model.name}

    @made.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """What was counted, for Prometheus."""
        return Response(generate_latest(worker.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @made.post("/admin/policy")
    async def swap(asked: Swap | None = None) -> dict[str, Any]:
        """Load policies anew, for the requests from here on."""
        asked = asked or Swap()
        try:
            await asyncio.to_thread(policies.swap, asked.policy, asked.folder)
        except (PolicyError, OSError, ValueError) as error:
            raise ApiError(400, str(error), "folder") from None
        return {"policies": {name: str(folder) for name, folder in policies.folders.items()}}

    return made


async def _until(events: asyncio.Queue[Any], deadline: float) -> AsyncIterator[Any]:
    """What a job tells, up to its Generation. Raises ApiError."""
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                what = await events.get()
        except TimeoutError:
            what = "the answer took too long: ask for less, or later"
            raise ApiError(408, what, code="timeout", again=False) from None
        if isinstance(what, ApiError):
            raise what
        yield what
        if isinstance(what, Generation):
            return


async def _unless_gone(request: Request, work: Callable[[], Awaitable[Any]], job: Job, worker: Worker) -> Any:
    """Submit a job and await `work`; cancel the job where that fails, or the client leaves before."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    worker.submit(job)
    working, leaving = asyncio.ensure_future(work()), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client is gone")
        return working.result()
    except BaseException:
        worker.cancel(job)
        raise
    finally:
        working.cancel()
        leaving.cancel()


class _Stream(StreamingResponse):
    """Server-sent events; `ended` is called when there are no more, or nobody takes them."""

    def __init__(self, events: AsyncIterator[str], ended: Callable[[], None]):
        super().__init__(events, headers={"Cache-Control": "no-cache"}, media_type="text/event-stream")
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _pieces(
    form: api.Form, options: StreamOptions | None, first: Any, rest: AsyncIterator[Any]
) -> AsyncIterator[str]:
    """An answer as server-sent events."""
    with_usage = options is not None and options.include_usage
    empty = {"usage": None} if with_usage else {}
    try:
        if form.chat:
            yield api.event(form.piece("", first=True) | empty)
        what = first
        while not isinstance(what, Generation):
            yield api.event(form.piece(what) | empty)
            what = await anext(rest)
        yield api.event(form.piece("", _finish(what)) | empty)
        if with_usage:
            yield api.event(form.last(_usage(what)))
        yield api.event("[DONE]")
    except ApiError as error:
        yield api.event(api.error_body(error))


def _finish(done: Generation) -> str:
    return "stop" if done.finish in ("stop", "stop_string") else "length"


def _usage(done: Generation) -> dict[str, Any]:
    prompt, written = len(done.prompt_ids), len(done.token_ids)
    counts: dict[str, float] = {"prompt_tokens": prompt, "completion_tokens": written}
    counts |= {"total_tokens": prompt + written}
    counts |= {"drafted_tokens": done.sums.drafted, "accepted_tokens": done.sums.accepted}
    return counts | {"prompt_tokens_details": {"cached_tokens": done.reused}}


async def _told(request: Request, error: Exception) -> Response:
    """An error as a response."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = "" if first["type"] == "json_invalid" else _place(first["loc"][1:])
        error = ApiError(400, f"{where}: {first['msg']}" if where else first["msg"], where or None)
    assert isinstance(error, HTTPException)
    return api.response(api.error_body(error), error.status_code, error.headers)


def _place(parts: Sequence[Any]) -> str:
    """Where in a request something is, as messages[0].content; what is in <> names a member of a union."""
    where = ""
    for part in parts:
        if not isinstance(part, str):
            where += f"[{part}]"
        elif not part.startswith("<"):
            where += f".{part}" if where else part
    return where
