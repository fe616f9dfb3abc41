"""Datasets in an object store: against a server that speaks S3, on the loopback interface."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

import lede.replay.compact
import lede.replay.writer
from lede import replay
from lede.cli import app
from lede.replay.bucket import URL, Bucket
from lede.replay.errors import DatasetError
from lede.replay.folder import Folder
from lede.replay.header import HEADER
from lede.replay.parts import table_files
from lede.replay.runs import Run
from lede.replay.store import File, Store
from tests.collect.small import CONFIG, collected, same, tables, tiny_model
from tests.replay.synthetic import make_episode, start, write_dataset
from tests.replay.test_store import stored_rows


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
def out(server: str, request: pytest.FixtureRequest) -> URL:
    return URL(f"s3://bucket/{request.node.name}")


def committed(run: Run) -> list[File]:
    return table_files(run.store, "transitions", run.id)


def flip(file: File) -> None:
    """Damage one bit of a file."""
    data = bytearray(file.read())
    data[len(data) // 2] ^= 1
    file.store.replace(file.name, bytes(data))


def stored(out: URL) -> list[int]:
    """The episodes, by a scan of this library."""
    return sorted(replay.open_dataset(out).episodes.collect()["episode"])


def command(*arguments: object, code: int = 0) -> str:
    """What a command prints; an error, if it is to end with that code."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


def test_holds_what_a_folder_would(out: URL, tmp_path: Path) -> None:
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


def test_two_at_once_double_nothing(out: URL) -> None:
    run = start(out)
    with replay.EpisodeWriter(run) as first:
        with pytest.raises(DatasetError, match="at work"), replay.EpisodeWriter(run) as second:
            first.add(*make_episode(0, 1))
            first.flush()
            second.add(*make_episode(0, 1))
        first.add(*make_episode(1, 1))
    assert stored(out) == [0, 1]
    assert replay.verify(out) == []


def test_a_writer_that_has_not_committed_yet_keeps_its_number(out: URL) -> None:
    """Or one that starts now would take the next, and both would commit the same episodes."""
    run = start(out)
    second = replay.EpisodeWriter(run)
    with replay.EpisodeWriter(run) as first:
        first.add(*make_episode(0, 1))
        second.add(*make_episode(0, 1))
    with pytest.raises(DatasetError, match="at work"):
        second.flush()
    assert stored(out) == [0]


def test_a_commit_while_a_writer_starts_is_seen(out: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    run, read = start(out), lede.replay.writer.committed_parts
    first = replay.EpisodeWriter(run)
    first.add(*make_episode(0, 1))

    def late(store: Store, run_id: str) -> dict[str, File]:
        found = read(store, run_id)
        first.flush()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(lede.replay.writer, "committed_parts", late)
        second = replay.EpisodeWriter(run)
    second.add(*make_episode(0, 1))
    with pytest.raises(DatasetError, match="at work"):
        second.flush()
    assert stored(out) == [0]


def test_what_was_committed_without_an_answer_is_not_written_again(out: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    run, create = start(out), Bucket.create

    def mute(store: Bucket, name: str, data: bytes, before: Mapping[str, bytes] | None = None) -> None:
        create(store, name, data, before)
        raise OSError("no answer")

    with replay.EpisodeWriter(run) as writer:
        for number in (0, 1):
            writer.add(*make_episode(number, 1))
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no answer"):
            patch.setattr(Bucket, "create", mute)
            writer.flush()
        writer.add(*make_episode(2, 1))
    assert stored(out) == [0, 1, 2]
    assert replay.verify(out) == []


def test_compaction_disturbs_no_writer_and_may_be_killed(out: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(out)
    with replay.EpisodeWriter(run, flush_rows=1) as writer:
        for number in range(3):
            writer.add(*make_episode(number, 1))
        with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
            patch.setattr(Bucket, "delete", killed)
            replay.compact_dataset(out)
        assert {finding.kind for finding in replay.verify(out)} == {"leftover"}
        assert stored(out) == [0, 1, 2]
        writer.add(*make_episode(3, 1))
        replay.compact_dataset(out)
        writer.add(*make_episode(4, 1))
    assert stored(out) == [0, 1, 2, 3, 4]
    assert replay.verify(out) == []


def killed(store: Bucket, name: str) -> None:
    raise OSError("killed")


def test_a_death_before_the_commit_leaves_nothing_that_counts(out: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(out)
    with replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(0, 1))
    (commit,) = committed(run)
    commit.store.delete(commit.name)  # as if the writer had died before it
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


def test_verify_finds_a_flipped_bit(out: URL) -> None:
    run = start(out)
    with replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(0, 1))
    (file,) = committed(run)
    flip(file)
    assert [finding.file for finding in replay.verify(out) if not finding.harmless] == [file]


@pytest.mark.parametrize("compacted", [False, True], ids=["parts", "compacted"])
@pytest.mark.parametrize("table", ["episodes", "transitions"])
def test_damage_is_set_aside_and_collected_again(server: str, table: str, compacted: bool) -> None:
    out, episodes = URL(f"s3://bucket/repaired-{table}-{compacted}"), range(6)
    run = start(out)

    def refill() -> None:
        with replay.EpisodeWriter(run, flush_rows=50) as writer:
            for number in sorted({*episodes} - run.committed()):
                writer.add(*make_episode(number, with_sweeps=True))

    refill()
    if compacted:
        replay.compact_dataset(out, max_rows=150)
    whole, before = stored_rows(out), set(stored(out))
    damaged = table_files(run.store, table, run.id)[-1]
    kept = damaged.read()
    flip(damaged)
    done = replay.repair_dataset(out)
    assert not done.left and all(finding.harmless for finding in replay.verify(out))
    place = {str(was): now for was, now in done.moved}[str(damaged)]
    assert place == out / ".damaged" / f"{damaged.name}.1"
    aside = bytearray(run.store.read(str(place).removeprefix(f"{out}/")))
    aside[len(kept) // 2] ^= 1
    assert bytes(aside) == kept
    lost = {number for numbers in done.lost.values() for number in numbers}
    assert lost and lost == before - run.committed()
    refill()
    assert stored_rows(out) == whole
    assert not [finding for finding in replay.verify(out) if not finding.harmless]


def test_a_folder_that_is_no_run_is_set_aside_with_all_that_is_in_it(out: URL) -> None:
    store = start(out).store
    store.create("transitions/run=best/a.txt", b"a")
    store.create("transitions/run=best/more/b.txt", b"b")
    assert replay.repair_dataset(out).moved == [(out / "transitions/run=best", out / ".damaged/transitions/run=best.1")]
    assert store.read(".damaged/transitions/run=best.1/more/b.txt") == b"b"
    assert replay.verify(out) == []


def test_folders_and_buckets_are_merged_into_either(out: URL, tmp_path: Path) -> None:
    write_dataset(out, 6, seed=0, with_sweeps=True, flush_rows=50)
    write_dataset(tmp_path / "b", 5, seed=1, with_sweeps=True, flush_rows=50)
    places = [tmp_path / "c", URL(f"{out}-merged")]
    for place in places:
        rows = replay.merge_datasets([out, tmp_path / "b"], place)
        assert rows["episodes"] == 11 and replay.verify(place) == []
        with pytest.raises(DatasetError, match="is there already"):
            replay.merge_datasets([out], place)
        assert start(place).committed() == set(range(6))
    assert same(*map(tables, places))
    with replay.EpisodeWriter(start(places[1])) as writer:
        writer.add(*make_episode(6))
    assert start(places[1]).committed() == set(range(7)) and replay.verify(places[1]) == []


def test_a_merge_that_fails_leaves_nothing_and_one_that_is_killed_no_dataset(
    out: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "a", 3, seed=0)
    create, merged = Bucket.create, Bucket(out)

    def failing(store: Bucket, name: str, data: bytes, before: Mapping[str, bytes] | None = None) -> None:
        if name == HEADER:
            raise OSError("no answer")
        create(store, name, data, before)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no answer"):
        patch.setattr(Bucket, "create", failing)
        replay.merge_datasets([tmp_path / "a"], out)
    assert merged.list() == []
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr(Bucket, "create", failing)
        patch.setattr(Bucket, "delete", killed)
        replay.merge_datasets([tmp_path / "a"], out)
    assert "episodes/" in merged.list()
    with pytest.raises(DatasetError, match="is not a dataset"):
        replay.open_dataset(out)
    with pytest.raises(DatasetError, match="being merged into, or that was killed"):
        replay.merge_datasets([tmp_path / "a"], out)


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, server: str) -> Store:
    return Folder(tmp_path / "data") if request.param == "folder" else Bucket(URL(f"s3://bucket/{request.node.name}"))


def test_both_stores_keep_the_same_promises(store: Store) -> None:
    assert not store.list() and not store.list("a/b")
    store.create("a/b/c", b"three", before={"a/b/d": b"old"})
    store.replace("a/b/d", b"four")
    with pytest.raises(FileExistsError):
        store.create("a/b/c", b"five", before={"a/b/e": b"six"})
    assert store.read("a/b/c") == b"three" and store.read_tail("a/b/d", 2) == b"ur"
    assert store.stat("a/b/c")[0] == 5 and store.read_tail("a/b/d", 9) == b"four"
    assert (store.list()[-1], *store.list("a")) == ("a/", "b/")
    for name in ("a/b/e", "a/b"):
        if name not in {f"a/b/{name}" for name in store.list("a/b")}:
            with pytest.raises(OSError, match=name):
                store.read(name)
    store.move("a/b/", "x/y")
    assert {*store.list("x/y")} >= {"c", "d"} and store.list("a/b") == []
    store.delete("x/")
    store.delete("x/c")
    assert store.list("x") == []


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
    assert same(tables(tmp_path / "merged"), tables(URL(url)))
    command("export", tmp_path / "d3rlpy", "--to", "d3rlpy", "--dataset", url)
    command("merge", tmp_path / "merged", "--out", "s3://bucket/merged")
    assert same(tables(URL("s3://bucket/merged")), tables(URL(url)))
    assert json.loads(command("repair", "s3://bucket/merged", "--json")) == {"moved": [], "lost": {}, "left": []}
