"""Several processes on this machine that collect one run, each a share of it with a model of its own."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from lede.collect.collector import Collected, Plan, outstanding
from lede.collect.collector import execute as execute_alone
from lede.collect.errors import CollectError
from lede.decode.model import Model
from lede.decode.rules import ValueFunction

RESTARTS = 3  # of each worker


def execute(
    plan: Plan,
    loaders: Sequence[Callable[[], Model]],
    policy: ValueFunction | None,
    report: Callable[[Collected], None] = lambda collected: None,
) -> Collected:
    """Collect what is outstanding of a plan in as many processes as there are loaders, which they call for the model.

    A worker that dies is started again and goes on behind what it had committed. Interrupted, all of them commit what
    they have. Raises what a worker raises, and CollectError for one that dies again and again.
    """
    context, count = get_context("spawn"), len(loaders)  # a fork would share locks of torch's threads
    collected, seen = outstanding(plan)[1], set[int]()
    running: dict[Connection, tuple[int, Any]] = {}
    starts = [0] * count

    def start(worker: int) -> None:
        here, there = context.Pipe(duplex=False)
        given = (there, loaders[worker], replace(plan, shard=(worker, count)), policy)
        process = context.Process(target=_work, args=given, daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})  # the child has them blocked
        process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
        running[here] = worker, process
        starts[worker] += 1

    try:
        for worker in range(count):
            start(worker)
        while running:
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                try:
                    told = pipe.recv()
                except (EOFError, OSError):  # it died without a word
                    worker, process = running.pop(pipe)
                    process.join()
                    if starts[worker] > RESTARTS:
                        raise CollectError(
                            f"worker {worker} died {starts[worker]} times, last with exit code {process.exitcode}: "
                            "the same command goes on from what is committed, perhaps with fewer --workers"
                        ) from None
                    start(worker)
                    continue
                if told is None:
                    running.pop(pipe)[1].join()
                elif isinstance(told, BaseException):
                    raise told
                elif told.number not in seen:  # what was lost with a worker is decoded again, to the same rows
                    seen.add(told.number)
                    collected.add(told)
                    report(collected)
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()
    return collected


def _work(pipe: Connection, loader: Callable[[], Model], plan: Plan, policy: ValueFunction | None) -> None:
    """A worker: an interrupt is the parent's to pass on, as SIGTERM, at which what is buffered is committed."""

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # schedulers send it too: once is enough
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        execute_alone(plan, loader(), policy, lambda got, _: pipe.send(got))
        pipe.send(None)
    except (KeyboardInterrupt, BrokenPipeError):  # stopped, or the parent is gone
        pass
    except Exception as error:
        pipe.send(error)
