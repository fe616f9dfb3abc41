"""Who decodes what: conversations are handed out one by one to workers, which may die, wherever they are."""

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Sequence
from typing import Any, Self

from lede.collect.collector import About, Behaviour, Episode, Talk
from lede.collect.errors import CollectError

RESTARTS = 3  # of each worker


class Dead(Exception):
    """A worker has died; says of what, or, if `final`, why it cannot be started at all."""

    def __init__(self, why: str, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class Pool(ABC):
    """An engine of so many workers, each with a model of its own; they go by their numbers.

    A context: leaving it ends them. One that dies is started again, and what it was decoding is handed out again;
    after its fourth death it is given up, and the others go on. `tell` gets a line about every death. Methods raise
    what a worker raises, and CollectError where the last worker is given up.
    """

    def __init__(self, workers: int, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._able = set(range(workers))  # those that are not given up
        self._running: list[int] = []
        self._deaths = Counter[int]()

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, *error: object) -> None:
        """End the workers, whatever they do."""

    @abstractmethod
    def _start(self, worker: int) -> None:
        """Start a worker, whose model it loads when it is first asked something."""

    @abstractmethod
    def _send(self, worker: int, name: str, *arguments: Any) -> None:
        """Ask for `about`, for `facts`, to `load` the model, or to `decode` a conversation."""

    @abstractmethod
    def _ready(self, workers: Collection[int]) -> list[int]:
        """Those of the workers that have answered or died; waits for one, but need not wait longer than a second."""

    @abstractmethod
    def _receive(self, worker: int) -> Any:
        """The next answer of one that is ready: to `load` and `decode` episodes, in one list or several.

        Raises what the worker raised, and Dead where it has died.
        """

    def about(self) -> About:
        """See `Engine`."""
        return self._ask("about")

    def facts(self) -> dict[str, Any]:
        """See `Engine`; measured while no other worker runs."""
        return self._ask("facts")

    def decode(self, behaviour: Behaviour, talks: Sequence[Talk]) -> Generator[Episode]:
        """See `Engine`."""
        left, idle = deque(talks), [*self._running]
        doing: dict[int, Talk | None] = {}  # None while it loads its model, so that nothing waits for it
        while left or any(doing.values()):
            unfinished = len(left) + sum(talk is not None for talk in doing.values())
            while len(idle) + len(doing) < min(len(self._able), unfinished):
                worker = self._started()
                doing[worker] = None
                self._send(worker, "load")
            while left and idle:
                worker = idle.pop()
                doing[worker] = left.popleft()
                self._send(worker, "decode", behaviour, doing[worker])
            for worker in self._ready(doing):
                talk = doing.pop(worker)
                try:
                    episodes = self._receive(worker)
                except Dead as death:
                    if talk is not None:
                        left.appendleft(talk)
                    self._bury(worker, death)
                    continue
                decoded = {episode.number for episode in episodes}
                if talk is not None and (more := tuple(n for n in talk.wanted if n not in decoded)):
                    doing[worker] = talk._replace(wanted=more)
                else:
                    idle.append(worker)
                yield from episodes

    def _ask(self, name: str) -> Any:
        """What any one worker answers."""
        while True:
            worker = self._running[0] if self._running else self._started()
            self._send(worker, name)
            while not self._ready([worker]):
                pass
            try:
                return self._receive(worker)
            except Dead as death:
                self._bury(worker, death)

    def _started(self) -> int:
        """Start the worker of those not running that has died least often."""
        worker = min(self._able - {*self._running}, key=lambda number: (self._deaths[number], number))
        self._start(worker)
        self._running.append(worker)
        return worker

    def _bury(self, worker: int, death: Dead) -> None:
        """Note that a worker has died."""
        self._running.remove(worker)
        self._deaths[worker] += 1
        times = self._deaths[worker]
        if not death.final and times <= RESTARTS:
            self._tell(f"worker {worker} died and is started again, death {times} of {RESTARTS + 1} that end it")
            return
        self._able.remove(worker)
        why = f"worker {worker} {death}"
        if not death.final:
            why = f"worker {worker} died {f'{times} times' if times > 1 else 'once'} ({death})"
        if self._able:
            self._tell(f"{why}; the others go on")
            return
        cure = "the same command goes on from what is committed, perhaps with fewer --workers"
        raise CollectError(why if death.final else f"{why}: {cure}") from death
