"""The scheduler of all engines of several workers: each episode once, whoever dies."""

import random
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from lede.collect.collector import Behaviour, Episode, Talk
from lede.collect.config import CollectConfig
from lede.collect.errors import CollectError
from lede.collect.pool import RESTARTS, Dead, Pool
from lede.collect.prompts import Prompt

BEHAVIOUR = Behaviour(CollectConfig(), (1,), None)
TALKS = [Talk(Prompt(f"{first}", "test", ""), first, tuple(range(first, first + 3))) for first in range(0, 30, 3)]


class InTurn(Pool):
    """Workers in this process, which answer in any order and die at random; `final` ones cannot be started."""

    def __init__(self, workers: int, deadly: float, final: Collection[int] = ()) -> None:
        self.told: list[str] = []
        super().__init__(workers, self.told.append)
        self.random, self.deadly, self.final = random.Random(1), deadly, final
        self.answers: dict[int, Iterator[Any]] = {}
        self.started: list[int] = []
        self.asked: list[int] = []  # first episodes

    def __exit__(self, *error: object) -> None:
        self.answers.clear()

    def _start(self, worker: int) -> None:
        assert worker not in self._running
        self.started.append(worker)

    def _send(self, worker: int, name: str, *arguments: Any) -> None:
        assert worker not in self.answers
        if name == "decode":
            self.asked.append(arguments[1].first)
        self.answers[worker] = self.answered(worker, name, *arguments)

    def answered(self, worker: int, name: str, *arguments: Any) -> Iterator[Any]:
        if name == "decode":
            numbers = arguments[1].wanted
            size = 1 + worker % 3  # one at a time, or several
            for place in range(0, len(numbers), size):
                yield [Episode(number, None) for number in numbers[place : place + size]]
        else:
            yield [] if name == "load" else name

    def _ready(self, workers: Collection[int]) -> list[int]:
        return self.random.sample(sorted(workers), self.random.randint(0, len(workers)))

    def _receive(self, worker: int) -> Any:
        if worker in self.final or self.random.random() < self.deadly:
            del self.answers[worker]
            raise Dead("of a coin", final=worker in self.final)
        answer = next(self.answers[worker])
        if answer == [] or answer in ("about", "facts") or answer[-1].number % 3 == 2:
            del self.answers[worker]
        return answer


@pytest.mark.parametrize("workers", [1, 3, 40])
@pytest.mark.parametrize("deadly", [0.0, 0.05])
def test_every_episode_comes_once_whoever_dies(workers: int, deadly: float) -> None:
    with InTurn(workers, deadly) as pool:
        assert pool.about() == "about"
        episodes = [episode.number for episode in pool.decode(BEHAVIOUR, TALKS)]
        assert sorted(episodes) == list(range(30))
        deaths = len([line for line in pool.told if "is started again" in line])
        assert (deaths > 0) == (deadly > 0)
        assert len(pool.started) <= min(workers, len(TALKS)) + deaths  # no more than there is work for
        assert len(pool.asked) <= len(TALKS) + deaths


def test_one_that_dies_again_and_again_is_given_up_and_the_last_one_ends_it() -> None:
    with InTurn(2, 1.0) as pool, pytest.raises(CollectError, match=r"^worker \d died 4 times \(of a coin\): the same"):
        list(pool.decode(BEHAVIOUR, TALKS))
    assert pool.started.count(0) == pool.started.count(1) == 1 + RESTARTS
    assert [line for line in pool.told if "the others go on" in line] and len(pool.told) == 2 * RESTARTS + 1


def test_one_that_cannot_be_started_is_not_tried_again() -> None:
    with InTurn(2, 0.0, final=(0,)) as pool:
        assert len([*pool.decode(BEHAVIOUR, TALKS)]) == 30
        assert pool.started == [0, 1] and pool.told == ["worker 0 of a coin; the others go on"]
    with InTurn(1, 0.0, final=(0,)) as pool, pytest.raises(CollectError, match=r"^worker 0 of a coin$"):
        pool.facts()
