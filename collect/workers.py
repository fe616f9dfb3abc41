"""An engine of several processes on this machine, each with a model of its own."""

import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from lede.collect.collector import About, Behaviour, Episode, Here, Talk
from lede.collect.errors import CollectError
from lede.decode.model import Model

RESTARTS = 3  # of each worker


class Workers:
    """Processes that are handed conversations one by one, as many as there are loaders, which they call for the model.

    A context: leaving it ends them. One that dies is started again, and what it was decoding is handed out again.
    Methods raise what a worker raises, and CollectError for one that dies again and again.
    """

    def __init__(self, loaders: Sequence[Callable[[], Model]]) -> None:
        self._loaders = loaders
        self._starts = [0 for _ in loaders]
        self._running: dict[Connection, tuple[int, Any]] = {}  # number and process
        self._context = get_context("spawn")  # a fork would share locks of torch's threads
        resource_tracker.ensure_running()  # whose start would let interrupts through to the first worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in self._running.values():
            process.kill()  # it writes nothing
        for _, process in self._running.values():
            process.join()

    def about(self) -> About:
        """See `Engine`."""
        return self._ask("about")

    def facts(self) -> dict[str, Any]:
        """See `Engine`; measured while no other worker runs."""
        return self._ask("facts")

    def decode(self, behaviour: Behaviour, talks: Sequence[Talk]) -> Generator[Episode]:
        """See `Engine`."""
        left = deque(talks)
        doing: dict[Connection, Talk] = {}
        while left or doing:
            while left and len(doing) < len(self._loaders):
                pipe = next((pipe for pipe in self._running if pipe not in doing), None) or self._start()
                try:
                    _send(pipe, "decode", behaviour, left[0])
                except _Dead:
                    self._bury(pipe)
                else:
                    doing[pipe] = left.popleft()
            for ready in wait(list(doing)):
                assert isinstance(ready, Connection)
                try:
                    episode = _received(ready)
                except _Dead:
                    self._bury(ready)
                    left.appendleft(doing.pop(ready))
                    continue
                talk = doing[ready]
                doing[ready] = talk._replace(wanted=tuple(n for n in talk.wanted if n != episode.number))
                if not doing[ready].wanted:
                    del doing[ready]
                yield episode

    def _start(self) -> Connection:
        """Start the worker of those not running that was started least often."""
        idle = {*range(len(self._loaders))} - {worker for worker, _ in self._running.values()}
        worker = min(idle, key=lambda number: (self._starts[number], number))
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(there, self._loaders[worker]), daemon=True)
        stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # the parent's to act on
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # the child has them blocked
        process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
        assert isinstance(here, Connection)
        self._running[here] = worker, process
        self._starts[worker] += 1
        return here

    def _bury(self, pipe: Connection) -> None:
        """Note that a worker has died."""
        worker, process = self._running.pop(pipe)
        process.join()
        if self._starts[worker] > RESTARTS:
            raise CollectError(
                f"worker {worker} died {self._starts[worker]} times, last with exit code {process.exitcode}: "
                "the same command goes on from what is committed, perhaps with fewer --workers"
            )

    def _ask(self, name: str) -> Any:
        """What any one worker answers."""
        while True:
            pipe = next(iter(self._running), None) or self._start()
            try:
                _send(pipe, name)
                return _received(pipe)
            except _Dead:
                self._bury(pipe)


class _Dead(Exception):
    """The worker at the other end of a pipe has died."""


def _send(pipe: Connection, *message: Any) -> None:
    try:
        pipe.send(message)
    except OSError as error:
        raise _Dead from error


def _received(pipe: Connection) -> Any:
    """Its next answer. Raises the error that the worker met, which may be any."""
    try:
        answer, error = pipe.recv()
    except (EOFError, OSError) as gone:
        raise _Dead from gone
    if error is not None:
        raise error
    return answer


def _work(pipe: Connection, loader: Callable[[], Model]) -> None:
    """A worker: answers until the parent ends it, or is gone."""
    try:
        engine = Here(loader())
        while True:
            name, *arguments = pipe.recv()
            if name == "decode":
                behaviour, talk = arguments
                for episode in engine.decode(behaviour, [talk]):
                    pipe.send((episode, None))
            else:
                pipe.send((getattr(engine, name)(), None))
    except (EOFError, BrokenPipeError):
        pass
    except Exception as error:
        pipe.send((None, error))
