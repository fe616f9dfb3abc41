"""An engine of several processes on this machine, each with a model of its own."""

import signal
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from lede.collect.collector import Here
from lede.collect.pool import Dead, Pool
from lede.decode.model import Model


class Workers(Pool):
    """Processes, as many as there are loaders, which they call for the model. See `Pool`."""

    def __init__(self, loaders: Sequence[Callable[[], Model]], tell: Callable[[str], None] = lambda line: None) -> None:
        super().__init__(len(loaders), tell)
        self._loaders = loaders
        self._processes: dict[int, Any] = {}
        self._pipes: dict[int, Connection] = {}
        self._context = get_context("spawn")  # a fork would share locks of torch's threads
        resource_tracker.ensure_running()  # whose start would let interrupts through to the first worker

    def __exit__(self, *error: object) -> None:
        for process in self._processes.values():
            process.kill()  # it writes nothing
        for process in self._processes.values():
            process.join()

    def _start(self, worker: int) -> None:
        here, there = self._context.Pipe()
        assert isinstance(here, Connection)
        process = self._context.Process(target=_work, args=(there, self._loaders[worker]), daemon=True)
        stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # the parent's to act on
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # the child has them blocked
        process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
        self._pipes[worker], self._processes[worker] = here, process

    def _send(self, worker: int, name: str, *arguments: Any) -> None:
        with suppress(OSError):  # it has died, which `_receive` will find
            self._pipes[worker].send((name, *arguments))

    def _ready(self, workers: Collection[int]) -> list[int]:
        pipes = wait([self._pipes[worker] for worker in workers])
        return [worker for worker in workers if self._pipes[worker] in pipes]

    def _receive(self, worker: int) -> Any:
        try:
            answer, error = self._pipes[worker].recv()
        except (EOFError, OSError):
            process = self._processes[worker]
            process.join()
            raise Dead(f"exit code {process.exitcode}") from None
        if error is not None:
            raise error
        return answer


def _work(pipe: Connection, loader: Callable[[], Model]) -> None:
    """A worker: answers until the parent ends it, or is gone."""
    try:
        engine = Here(loader())
        while True:
            name, *arguments = pipe.recv()
            if name == "load":
                pipe.send(([], None))
            elif name == "decode":
                behaviour, talk = arguments
                for episode in engine.decode(behaviour, [talk]):
                    pipe.send(([episode], None))
            else:
                pipe.send((getattr(engine, name)(), None))
    except (EOFError, BrokenPipeError):
        pass
    except Exception as error:
        pipe.send((None, error))
