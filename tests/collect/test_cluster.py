"""Collecting on a Ray cluster, a real one on this machine: the rows that one process gives, whoever dies."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lede.collect.cluster
from lede import replay
from lede.cli import app
from lede.collect.cluster import Cluster
from lede.collect.collector import collect
from lede.collect.errors import CollectError
from lede.decode.errors import ModelError
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


def test_two_actors_collect_what_one_process_does_also_if_one_is_killed(cluster: str, tmp_path: Path) -> None:
    collected(tmp_path / "alone")
    mortal = partial(load_mortal, tmp_path / "died", 1)
    with Cluster(mortal, cluster, 2) as engine:
        done = collect(engine, PROMPTS, tmp_path / "data", CONFIG)
    assert (tmp_path / "died0").exists()
    assert (done.planned, done.episodes, done.resumed) == (7, 7, 0)
    assert same(tables(tmp_path / "data"), tables(tmp_path / "alone"))
    assert replay.verify(tmp_path / "data") == []


@pytest.mark.slow
def test_an_actor_that_dies_again_and_again_is_given_up(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lede.collect.cluster, "RESTARTS", 1)
    with (
        pytest.raises(CollectError, match="died more than 1 times"),
        Cluster(kill_self, cluster, 1) as engine,
    ):
        collect(engine, PROMPTS, tmp_path / "data", CONFIG)


def test_what_an_actor_raises_is_raised_here_and_no_room_or_no_cluster_is_said(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^no such model$"), Cluster(refuse, cluster, 1) as engine:
        collect(engine, PROMPTS, tmp_path / "data", CONFIG)
    with pytest.raises(CollectError, match="no room for a worker of 1 CPUs and 2 GPUs"):
        Cluster(load_tiny, cluster, gpus=2)


@pytest.mark.slow
def test_the_command_takes_ray(cluster: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*SHORT, str(tmp_path / "data"), "--ray", "--workers", "1"])
    assert done.exit_code == 0 and json.loads(done.stdout)["episodes"] == 6, done.output
    assert replay.verify(tmp_path / "data") == []
