"""An engine of actors on a Ray cluster, each with a model of its own."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import Any, Self

from lede.collect.collector import About, Behaviour, Episode, Here, Talk
from lede.collect.errors import CollectError
from lede.decode.model import Model

RESTARTS = 3  # of each actor
PAUSE = 0.5  # seconds before asking again for an actor that is being started again
STORE = 200_000_000  # bytes for what actors have sent: an episode is a tenth of a million
LOCAL = "local"  # the address that starts a cluster on this machine


class Cluster:
    """Actors that are handed conversations one by one; what they decode is sent here.

    A context: leaving it ends them. address: of the cluster; "local" starts one on this machine, "auto" finds one that
    runs here. loader: called by every actor for its model. actors: how many; None: as many as there is room for now.
    cpus, gpus: what each of them takes, of which gpus may be a fraction; None: one GPU where there are any, else none.
    An actor that dies, alone or with its node, is started again where there is room, and what it was decoding is handed
    to others. Raises CollectError where the cluster cannot be reached, has no room, or actors die again and again; and
    what an actor raises.
    """

    def __init__(
        self,
        loader: Callable[[], Model],
        address: str = LOCAL,
        actors: int | None = None,
        cpus: float = 1,
        gpus: float | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster started here: what else runs would starve it
        import ray

        self._ray, self._ours, self._actors = ray, not ray.is_initialized(), list[Any]()
        ours: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE} if address == LOCAL else {}
        try:
            ray.init(address, ignore_reinit_error=True, logging_level=logging.ERROR, log_to_driver=False, **ours)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CollectError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from error
        room = ray.available_resources()
        if gpus is None:
            gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0))
        fits = [int(room.get(kind, 0.0) / each) for kind, each in (("CPU", cpus), ("GPU", gpus)) if each]
        self._count = actors or min(fits, default=1)
        if not self._count:
            self.__exit__()
            raise CollectError(
                f"the cluster has no room for a worker of {cpus:g} CPUs and {gpus:g} GPUs, free are "
                f"{room.get('CPU', 0):g} and {room.get('GPU', 0):g}: ask for less with --num-cpus and --num-gpus, or "
                "wait for room with --workers 1"
            )
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": RESTARTS, "max_task_retries": 0}
        self._new = lambda: ray.remote(**options)(_Actor).remote(loader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()

    def about(self) -> About:
        """See `Engine`."""
        return self._ask("about")

    def facts(self) -> dict[str, Any]:
        """See `Engine`; measured by one actor before the others are started."""
        return self._ask("facts")

    def decode(self, behaviour: Behaviour, talks: Sequence[Talk]) -> Generator[Episode]:
        """See `Engine`."""
        ray, left = self._ray, deque(talks)
        while len(self._actors) < min(self._count, len(talks)):
            self._actors.append(self._new())
        # What each actor does: a conversation, or None while it loads its model, so that nothing waits for it.
        doing: dict[Any, tuple[Any, Talk | None]] = {actor.load.remote(): (actor, None) for actor in self._actors}
        idle: list[Any] = []
        how = ray.put(behaviour)
        while left or any(talk for _, talk in doing.values()):
            while left and idle:
                actor, given = idle.pop(), left.popleft()
                doing[actor.decode.remote(how, given)] = actor, given
            done, _ = ray.wait([*doing], timeout=1)  # so that an interrupt need not wait longer
            for answer in done:
                actor, talk = doing.pop(answer)
                try:
                    episodes = self._get(answer)
                except ray.exceptions.RayActorError as error:
                    if talk is not None:
                        left.appendleft(talk)
                    elif isinstance(error, ray.exceptions.ActorDiedError):  # for good
                        if not doing and not idle:
                            raise _given_up(error) from error
                        continue
                    else:
                        time.sleep(PAUSE)
                    doing[actor.load.remote()] = actor, None  # answers when it lives again
                    continue
                idle.append(actor)
                yield from episodes

    def _ask(self, name: str) -> Any:
        """What the first actor answers."""
        if not self._actors:
            self._actors.append(self._new())
        while True:
            try:
                return self._get(getattr(self._actors[0], name).remote())
            except self._ray.exceptions.ActorUnavailableError:  # it is being started again
                time.sleep(PAUSE)
            except self._ray.exceptions.RayActorError as error:
                raise _given_up(error) from error

    def _get(self, answer: Any) -> Any:
        """An answer, once it is there. Raises what the actor raised, without Ray's words around it."""
        try:
            while not self._ray.wait([answer], timeout=1)[0]:
                pass
            return self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None


def _given_up(error: Exception) -> CollectError:
    told = str(error).splitlines()[0]
    return CollectError(f"all actors died more than {RESTARTS} times ({told}): try the same command again")


class _Actor:
    def __init__(self, loader: Callable[[], Model]) -> None:
        self._loader = loader

    @cached_property
    def _engine(self) -> Here:
        return Here(self._loader())  # not in __init__, whose errors Ray would tell as a death

    def load(self) -> list[Episode]:
        """Load the model; nothing is decoded."""
        assert self._engine
        return []

    def about(self) -> About:
        return self._engine.about()

    def facts(self) -> dict[str, Any]:
        return self._engine.facts()

    def decode(self, behaviour: Behaviour, talk: Talk) -> list[Episode]:
        return [*self._engine.decode(behaviour, [talk])]
