"""A real server on a loopback port, in a thread of its own."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from openai import OpenAI

from lede.serve.metrics import Metrics
from lede.serve.server import Limits, Policies, app
from lede.serve.worker import Worker


@dataclass
class Served:
    url: str
    worker: Worker
    policies: Policies
    application: Any

    def openai(self, **options: Any) -> OpenAI:
        """OpenAI's client."""
        return OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 30} | options)

    def post(self, path: str = "/v1/completions", **body: Any) -> httpx.Response:
        """A request as nobody's client makes it."""
        return httpx.post(f"{self.url}{path}", json=body, timeout=30)

    def metric(self, name: str, **labels: str) -> float:
        """A number that is counted."""
        return self.worker.metrics.registry.get_sample_value(name, labels) or 0.0


@contextlib.contextmanager
def serving(
    model: Any, folders: Any = (), limits: Limits | None = None, queue: int = 16, **more: Any
) -> Iterator[Served]:
    """A server of a model."""
    policies, worker = Policies(model, dict(folders)), Worker(model, queue, Metrics(), more.pop("recorded", None))
    application = app(model, policies, worker, limits or Limits(), **more)
    server = uvicorn.Server(uvicorn.Config(application, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", worker, policies, application)
        finally:
            worker.closing = True  # as the command does: a page that watches would be watching for ever
            server.should_exit = True
            thread.join()


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds, or time out."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
