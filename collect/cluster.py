"""An engine of actors on a Ray cluster, each with a model of its own."""

import logging
import os
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

from lede.collect.collector import About, Behaviour, Episode, Here, Talk
from lede.collect.errors import CollectError
from lede.collect.pool import Dead, Pool
from lede.decode.model import Model
from lede.ground import first_line

STORE = 200_000_000  # bytes for what actors have sent: an episode is a tenth of a million
ANSWER = 10  # seconds in which a cluster must answer: Ray itself would ask for ever
# What of this process's environment the workers get, who else have what their node was started with. Tokens go by
# another way: Ray writes environments into its logs.
SENT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "LEDE_")
SECRET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
LOCAL = "local"  # the address that starts a cluster on this machine


class Cluster(Pool):
    """Actors; what they decode is sent here. See `Pool`.

    address: of the cluster; "local" starts one on this machine, "auto" finds one that runs here. loader: called by
    every actor for its model. actors: how many; None: as many as there is room for now. cpus, gpus: what each of them
    takes, of which gpus may be a fraction; None: one GPU where there are any, else none. One that is started again is
    where there is room, or waits for it. Raises CollectError where the cluster cannot be reached or has no room.
    """

    def __init__(
        self,
        loader: Callable[[], Model],
        address: str = LOCAL,
        actors: int | None = None,
        cpus: float = 1,
        gpus: float | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster started here: what else runs would starve it
        import ray

        self._ray, self._ours = ray, not ray.is_initialized()
        self._actors, self._answers = dict[int, Any](), dict[int, Any]()
        if self._ours and address != LOCAL:
            check_reachable(os.environ.get("RAY_ADDRESS") or address if address == "auto" else address)
        ours: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE} if address == LOCAL else {}
        try:
            with own_signals():
                ray.init(address, ignore_reinit_error=True, logging_level=logging.ERROR, log_to_driver=False, **ours)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CollectError(f"no Ray cluster at {address}: {first_line(error)}") from error
        room = ray.available_resources()
        if gpus is None:
            gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0))
        fits = [int(room.get(kind, 0.0) / each) for kind, each in (("CPU", cpus), ("GPU", gpus)) if each]
        actors = actors or min(fits, default=1)
        if not actors:
            self.__exit__()
            raise CollectError(
                f"the cluster has no room for a worker of {cpus:g} CPUs and {gpus:g} GPUs, free are "
                f"{room.get('CPU', 0):g} and {room.get('GPU', 0):g}: ask for less with --num-cpus and --num-gpus, or "
                "wait for room with --workers 1"
            )
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus}
        sent = {name: value for name, value in os.environ.items() if name.startswith(SENT) and name not in SECRET}
        if address != LOCAL and sent:
            options["runtime_env"] = {"env_vars": sent}
        secrets = {name: os.environ[name] for name in SECRET if name in os.environ}
        self._new = partial(ray.remote(**options)(_Actor).remote, loader, secrets)
        super().__init__(actors, tell)

    def __exit__(self, *error: object) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()

    def _start(self, worker: int) -> None:
        self._actors[worker] = self._new()

    def _send(self, worker: int, name: str, *arguments: Any) -> None:
        self._answers[worker] = getattr(self._actors[worker], name).remote(*arguments)

    def _ready(self, workers: Collection[int]) -> list[int]:
        waiting = {self._answers[worker]: worker for worker in workers}
        done, _ = self._ray.wait([*waiting], timeout=1)  # so that an interrupt need not wait longer
        return [waiting[answer] for answer in done]

    def _receive(self, worker: int) -> Any:
        try:
            return self._ray.get(self._answers.pop(worker))
        except self._ray.exceptions.RayTaskError as error:  # without Ray's words around what the actor raised
            raise error.cause from None
        except self._ray.exceptions.RayActorError as error:
            self._ray.kill(self._actors.pop(worker))  # where it is only out of reach
            if getattr(error, "actor_init_failed", False):
                why = f"cannot be started ({_told(error)}): every node needs the same lede, installed"
                raise Dead(why, final=True) from error
            raise Dead(_told(error)) from error
        except self._ray.exceptions.RayError as error:  # no room for it any more, an environment that cannot be made
            raise CollectError(f"Ray cannot run an actor: {_told(error)}") from error


def _told(error: Exception) -> str:
    """What an error of Ray's says that matters: the exception behind it, or why a process is gone."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if getattr(error, "actor_init_failed", False):
        return lines[-1]
    why = next((line for line in lines if line.startswith("The actor is dead because")), lines[0])
    return why.partition(" Some common causes")[0].rstrip(".")


def check_reachable(address: str) -> None:
    """Raise CollectError, soon, where nothing that could be a cluster listens. address: HOST:PORT or ray://HOST:PORT."""
    import grpc  # type: ignore[import-untyped]

    if address == "auto":  # for Ray to find
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port or (10001 if parts.scheme else None)
        host = host if parts.scheme in ("", "ray") else None
    except ValueError:
        host = port = None
    if not host or not port:
        raise CollectError(
            f"{address!r} is no address of a Ray cluster: give HOST:PORT, ray://HOST:PORT, auto or nothing"
        )
    try:
        socket.create_connection((host, port), ANSWER).close()
    except OSError as error:
        raise CollectError(f"no Ray cluster at {address}: {error.strerror or error}") from error
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with closing(grpc.insecure_channel(where, options=[("grpc.enable_http_proxy", 0)])) as channel:
        try:
            grpc.channel_ready_future(channel).result(ANSWER)
        except grpc.FutureTimeoutError as error:
            raise CollectError(f"no Ray cluster at {address}: something else listens there") from error


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that exits with 1 where it starts or joins a node."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # Ray's handler has run
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class _Actor:
    def __init__(self, loader: Callable[[], Model], environment: dict[str, str]) -> None:
        os.environ.update(environment)
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
