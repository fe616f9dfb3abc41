"""Datasets in an object store: against a server that speaks S3, on the loopback interface."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

import lede.replay.compact
import lede.replay.objects
from lede import replay
from lede.cli import app
from lede.replay.errors import DatasetError
from lede.replay.storage import ObjectPath, create, place
from tests.collect.small import CONFIG, collected, same, tables, tiny_model
from tests.replay.synthetic import make_episode, start


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
    settings["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        import boto3

        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        yield settings["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def out(server: str, request: pytest.FixtureRequest) -> Path:
    return place(f"s3://bucket/{request.node.name}")


def stored(out: Path) -> list[int]:
    """The episodes, by a scan of this library."""
    return sorted(replay.open_dataset(out).episodes.collect()["episode"])


def command(*arguments: object, code: int = 0) -> str:
    """What a command prints; an error, if it is to end with that code."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


def test_holds_what_a_folder_would(out: Path, tmp_path: Path) -> None:
    model = tiny_model()
    collected(tmp_path / "local", model=model)
    first = collected(out, CONFIG.__class__(**{**vars(CONFIG), "episodes": 3}), model)
    second = collected(out, model=model)
    assert (first.episodes, second.resumed, second.episodes) == (3, 3, 4)
    assert same(tables(out), tables(tmp_path / "local"))
    assert replay.verify(out) == []
    scanned = pl.scan_parquet(f"{out}/transitions/**/*.parquet").collect()
    assert scanned.height == replay.open_dataset(out).rows("transitions")
    assert replay.compact_dataset(out) == {"episodes": (2, 1), "sweeps": (2, 1), "transitions": (2, 1)}
    assert same(tables(out), tables(tmp_path / "local"))
    assert replay.verify(out) == []
    assert replay.inspect_dataset(out)["counts"]["episodes"] == 7
    assert collected(out, model=model).episodes == 0


def test_two_at_once_double_nothing(out: Path) -> None:
    run = start(out)
    with replay.EpisodeWriter(run) as first:
        with pytest.raises(DatasetError, match="at work"), replay.EpisodeWriter(run) as second:
            first.add(*make_episode(0, 1))
            first.flush()
            second.add(*make_episode(0, 1))
        first.add(*make_episode(1, 1))
    assert stored(out) == [0, 1]
    assert replay.verify(out) == []


def test_a_writer_that_has_not_committed_yet_keeps_its_number(out: Path) -> None:
    """Or one that starts now would take the next, and both would commit the same episodes."""
    run = start(out)
    second = replay.EpisodeWriter(run)
    with replay.EpisodeWriter(run) as first:
        first.add(*make_episode(0, 1))
        second.add(*make_episode(0, 1))
    with pytest.raises(DatasetError, match="at work"):
        second.flush()
    assert stored(out) == [0]


def test_what_was_committed_without_an_answer_is_not_written_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(out)

    def mute(path: Path, data: bytes) -> None:
        create(path, data)
        if "transitions" in str(path):
            raise OSError("no answer")

    with replay.EpisodeWriter(run) as writer:
        for number in (0, 1):
            writer.add(*make_episode(number, 1))
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no answer"):
            patch.setattr(lede.replay.objects, "create", mute)
            writer.flush()
        writer.add(*make_episode(2, 1))
    assert stored(out) == [0, 1, 2]
    assert replay.verify(out) == []


def test_compaction_disturbs_no_writer_and_may_be_killed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(out)
    with replay.EpisodeWriter(run, flush_rows=1) as writer:
        for number in range(3):
            writer.add(*make_episode(number, 1))
        with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
            patch.setattr(ObjectPath, "unlink", killed)
            replay.compact_dataset(out)
        assert {finding.kind for finding in replay.verify(out)} == {"leftover"}
        assert stored(out) == [0, 1, 2]
        writer.add(*make_episode(3, 1))
        replay.compact_dataset(out)
        writer.add(*make_episode(4, 1))
    assert stored(out) == [0, 1, 2, 3, 4]
    assert replay.verify(out) == []


def killed(path: Path, missing_ok: bool = False) -> None:
    raise OSError("killed")


def test_a_death_before_the_commit_leaves_nothing_that_counts(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(out)
    with replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(0, 1))
    commit = next(place(out / "transitions" / f"run={run.id}").iterdir())
    commit.unlink()  # as if the writer had died before it
    assert run.committed() == set()
    assert {finding.kind for finding in replay.verify(out)} == {"orphan"}
    with replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(0, 1))
    assert run.committed() == {0}
    replay.compact_dataset(out)
    assert {finding.kind for finding in replay.verify(out)} == {"orphan"}, "a writer may be about to commit it"
    monkeypatch.setattr(lede.replay.compact, "ABANDONED", -60)
    replay.compact_dataset(out)
    assert replay.verify(out) == [] and stored(out) == [0]


def test_verify_finds_a_flipped_bit(out: Path) -> None:
    run = start(out)
    with replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(0, 1))
    path = next(place(out / "transitions" / f"run={run.id}").iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    create(path, bytes(data))
    assert [str(finding.path) for finding in replay.verify(out) if not finding.harmless] == [str(path)]


def test_what_is_no_dataset_is_one_line(server: str) -> None:
    for url, told in (("s3://", "names no bucket"), ("s4://bucket/x", "begin with s3://"), ("s3:/bucket/none", "none")):
        said = command("verify", url, code=2)
        assert said.count("\n") == 1 and told in said


@pytest.mark.slow
def test_the_commands_take_urls(server: str, tmp_path: Path) -> None:
    url, policy = "s3://bucket/commands", tmp_path / "policy"
    short = ("--episodes", 12, "--max-new-tokens", 24, "--threads", 1, "--out", url, "--json")
    for shard in ("1/2", "2/2"):
        assert json.loads(command("collect", *short, "--shard", shard))["episodes"] == 6
    command("verify", url)
    assert json.loads(command("inspect", url, "--json"))["counts"]["episodes"] == 12
    command("compact", url)
    assert json.loads(command("collect", *short))["resumed"] == 12
    command("learn", "--dataset", url, "--out", policy, "--updates", 64)
    command("evaluate", "--dataset", url, "--policy", policy)
    command("merge", url, "--out", tmp_path / "merged")
    assert same(tables(tmp_path / "merged"), tables(place(url)))
    command("export", tmp_path / "d3rlpy", "--to", "d3rlpy", "--dataset", url)
    for refused in (("repair", url), ("merge", tmp_path / "merged", "--out", "s3://bucket/merged")):
        said = command(*refused, code=2)
        assert said.count("\n") == 1 and "object store" in said
