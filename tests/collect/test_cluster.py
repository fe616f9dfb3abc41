"""Collecting on a Ray cluster, a real one on this machine: the rows that one process gives, whoever dies."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lede.collect.cluster
import lede.collect.pool
from lede import replay
from lede.cli import app
from lede.collect.cluster import Cluster, check_reachable, own_signals
from lede.collect.collector import collect
from lede.collect.errors import CollectError
from lede.commands.collect import absolute, exits_everywhere
from lede.decode.errors import ModelError
from lede.decode.model import Model
from tests.collect.small import CONFIG, PROMPTS, collected, same, tables
from tests.collect.test_shards import SHORT, kill_self, load_mortal, load_tiny, refuse

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster with room for two actors."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # as `Cluster` sets it where it starts one
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False, logging_level="ERROR"
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.slow
def test_two_actors_collect_what_one_process_does_also_if_one_is_killed(cluster: str, tmp_path: Path) -> None:
    collected(tmp_path / "alone")
    mortal = partial(load_mortal, tmp_path / "died", 1)
    told: list[str] = []
    with Cluster(mortal, cluster, 2, tell=told.append) as engine:
        done = collect(engine, PROMPTS, tmp_path / "data", CONFIG)
    assert (tmp_path / "died0").exists()
    assert [line[len("worker 0") :] for line in told] == [" died and is started again, death 1 of 4 that end it"]
    assert (done.planned, done.episodes, done.resumed) == (7, 7, 0)
    assert same(tables(tmp_path / "data"), tables(tmp_path / "alone"))
    assert replay.verify(tmp_path / "data") == []


@pytest.mark.slow
def test_an_actor_that_dies_again_and_again_is_given_up(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lede.collect.pool, "RESTARTS", 1)
    with (
        pytest.raises(CollectError, match=r"^worker 0 died 2 times \(The actor is dead because"),
        Cluster(kill_self, cluster, 1) as engine,
    ):
        collect(engine, PROMPTS, tmp_path / "data", CONFIG)


def test_what_an_actor_raises_is_raised_here_and_no_room_or_no_cluster_is_said(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^no such model$"), Cluster(refuse, cluster, 1) as engine:
        collect(engine, PROMPTS, tmp_path / "data", CONFIG)
    with pytest.raises(CollectError, match="no room for a worker of 1 CPUs and 2 GPUs"):
        Cluster(load_tiny, cluster, gpus=2)


@pytest.mark.slow
def test_a_first_death_is_told_as_such_and_what_cannot_start_too(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lede.collect.pool, "RESTARTS", 0)
    with (
        pytest.raises(CollectError, match=r"^worker 0 died once \(The actor is dead"),
        Cluster(kill_self, cluster, 1) as engine,
    ):
        engine.about()
    with (
        pytest.raises(
            CollectError,
            match=r"^worker 0 cannot be started \(.*no_such_module.*\): every node needs the same lede, installed$",
        ),
        Cluster(Foreign(), cluster, 1) as engine,
    ):
        engine.about()


class Foreign:
    """A loader whose module a node does not have."""

    def __reduce__(self) -> tuple[object, ...]:
        return __import__, ("no_such_module",)

    def __call__(self) -> Model:
        raise AssertionError


@pytest.mark.slow
def test_workers_get_what_matters_of_the_environment(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_TOKEN", "LEDE_NATIVE", "OTHER"):
        monkeypatch.setenv(name, "sent")
    told = r"^HF_HOME=sent HF_TOKEN=sent LEDE_NATIVE=sent OTHER=None$"
    with pytest.raises(ModelError, match=told), Cluster(environment, cluster, 1) as engine:
        engine.about()


def environment() -> Model:
    names = ("HF_HOME", "HF_TOKEN", "LEDE_NATIVE", "OTHER")
    raise ModelError(" ".join(f"{name}={os.environ.get(name)}" for name in names))


def test_where_no_cluster_listens_is_one_line_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lede.collect.cluster, "ANSWER", 0.5)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(CollectError, match=f"no Ray cluster at {address}: something else listens there"):
            check_reachable(address)
    for scheme in ("", "ray://"):
        with pytest.raises(CollectError, match=f"no Ray cluster at {scheme}{address}: Connection refused"):
            check_reachable(scheme + address)
    for wrong in ("127.0.0.1", "host:port", "host:99999", "http://host:8265", ":6379"):
        with pytest.raises(CollectError, match="is no address of a Ray cluster"):
            check_reachable(wrong)


def test_ray_does_not_take_our_signals() -> None:
    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with own_signals():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is stop
        with pytest.raises(KeyboardInterrupt), own_signals():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise SystemExit(1)  # as Ray's handler does
    finally:
        signal.signal(signal.SIGTERM, before)


def test_paths_mean_the_same_in_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert absolute("tiny") == absolute("./tiny/") == str(tmp_path / "tiny")
    assert [absolute(name) for name in (None, "lede-tiny", "me/llama")] == [None, "lede-tiny", "me/llama"]
    assert exits_everywhere("tiny", None) == "none"  # whatever is in exits/ where a worker runs
    assert exits_everywhere("smollm2", None) is None  # the package's, wherever that is
    shutil.copytree(Path(lede.__path__[0]) / "exits" / "smollm2", tmp_path / "exits" / "tiny")
    assert exits_everywhere("tiny", None) == exits_everywhere("x", "exits/tiny") == str(tmp_path / "exits" / "tiny")


@pytest.mark.slow
def test_the_command_takes_ray_and_relative_paths(
    cluster: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the cluster was started elsewhere
    shutil.copytree(checkpoint, "here")
    Path("mine.jsonl").write_text('{"prompt": "abab"}\n' * 3)
    named = ("--model", "here", "--prompts", "mine.jsonl")
    done = CliRunner().invoke(app, [*SHORT, "data", *named, "--ray", "--workers", "1"])
    assert done.exit_code == 0 and json.loads(done.stdout)["episodes"] == 6, done.output
    assert replay.verify(tmp_path / "data") == []


@pytest.mark.slow
def test_actors_write_the_sampled_text_of_a_seed(cluster: str, tmp_path: Path) -> None:
    sampled = replace(CONFIG, temperature=0.9, top_k=20, seed=3)
    collected(tmp_path / "alone", sampled)
    with Cluster(load_tiny, cluster, 2) as engine:
        collect(engine, PROMPTS, tmp_path / "data", sampled)
    ours, alone = tables(tmp_path / "data"), tables(tmp_path / "alone")
    assert same(ours, alone) and (ours["episodes"]["temperature"] == 0.9).all()
