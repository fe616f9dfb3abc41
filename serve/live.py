"""The page of `lede report`, filled while the server answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.responses import HTMLResponse, Response, StreamingResponse

from lede.decode.model import Model
from lede.decode.round import Generation
from lede.policy import Policy
from lede.serve.api import ApiError, event
from lede.serve.report import Teller, render, report, summary
from lede.serve.stream import Decoder
from lede.serve.worker import Job, Worker

MOST = 16  # pages that are open
BEHIND = 4096  # rounds that one may be behind; then it misses some
INLINE = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def page(model: Model, policy: Policy | None) -> Response:
    """The page; a policy that is loaded later is seen when it is loaded again."""
    return HTMLResponse(render(report(model, policy, live=True)), headers={"Content-Security-Policy": INLINE})


def events(model: Model, worker: Worker) -> Response:
    """Server-sent events of what is written from here on, to everyone who watches.

    {"start": prompt}, then {"round": `Teller.round`} each, then {"done": `summary`}. Raises ApiError where too many
    watch.
    """
    if len(worker.watchers) >= MOST:
        raise ApiError(429, f"{MOST} pages are open: close one", code="too_many_pages")
    return StreamingResponse(
        _events(model, worker), headers={"Cache-Control": "no-cache"}, media_type="text/event-stream"
    )


async def _events(model: Model, worker: Worker) -> AsyncIterator[str]:
    loop, news = asyncio.get_running_loop(), asyncio.Queue[tuple[Job, Generation | None]](BEHIND)

    def put(item: tuple[Job, Generation | None]) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            news.put_nowait(item)

    def watch(job: Job, done: Generation | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(put, (job, done))

    worker.watchers.add(watch)
    try:
        last, told = None, 0
        yield ": welcome\n\n"
        while not worker.closing:
            try:
                async with asyncio.timeout(1):
                    job, done = await news.get()
            except TimeoutError:
                yield ": nothing new\n\n"
                continue
            if job is not last:
                decoder = Decoder(model.tokenizer, job.ids, skip_special_tokens=False)
                last, told, teller = job, 0, Teller(decoder, getattr(job.rule, "policy", None))
                yield event({"start": str(model.tokenizer.decode(job.ids))})
            for round_ in job.rounds[told:]:
                yield event({"round": teller.round(round_)})
                told += 1
            if done is not None:
                yield event({"done": summary(done)})
    finally:
        worker.watchers.discard(watch)
