"""How object stores are reached: what cannot be meant is one line; profiles of S3 are read, or refused by name."""

import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from lede import replay
from lede.cli import app
from lede.replay import bucket
from lede.replay.access import PREFIXES, settings
from lede.replay.bucket import URL, Bucket, reason
from lede.replay.errors import DatasetError
from lede.replay.parquet import open_file
from lede.replay.store import File, place
from tests.replay.synthetic import make_episode, start, write_dataset

KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No settings from outside, and none kept."""
    for name in [name for name in os.environ if name.startswith(tuple(PREFIXES.values()))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    bucket._driver.cache_clear()
    yield
    bucket._driver.cache_clear()


def refused(url: str) -> str:
    """The one line that a command ends with, the reason for exit code 2."""
    done = CliRunner().invoke(app, ["verify", url])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    return done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("AWS_ENDPOINT_URL", value)
            for value in ("127.0.0.1:9", "host:9", "", "http://", "ftp://host", "http://h:99999")
        ),
        *(("AWS_ENDPOINT_URL_S3", value) for value in ("http://a b", "http://h:9 ", "s3.example")),
        *((name, "k\n") for name in ("AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_SECRET_ACCESS_KEY")),
    ],
)
def test_settings_that_cannot_be_meant_are_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, usual in (KEYS | {name: value}).items():
        monkeypatch.setenv(key, usual)
    assert name in refused("s3://bucket/x")


@pytest.mark.parametrize("url", ["s3://bucket/../x", "s3://bucket/x/..", "s3://../x", "s3://bucket:9/x", "s3://a@b/x"])
def test_urls_that_name_something_else_are_refused(url: str) -> None:
    assert url in refused(url)


@pytest.mark.parametrize("url", ["s3:///x", "s3://bucket/./x", "s3://bucket/a\nb"])
def test_places_that_name_something_else_are_refused(url: str) -> None:
    with pytest.raises(DatasetError, match=r"BUCKET/NAME|cannot be in"):
        place(url)


def test_a_url_means_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever would look on one, or write there, is refused by name: as it would be for a policy or a picture."""
    monkeypatch.chdir(tmp_path)
    url = place("s3:/bucket//x/y.png/")
    assert str(url) == "s3://bucket/x/y.png" and (url.name, url.stem, str(url.parent)) == (
        "y.png",
        "y",
        "s3://bucket/x",
    )
    assert pickle.loads(pickle.dumps(url)) == url == URL("s3://bucket/x") / "y.png"
    for look in (Path, open, os.listdir, lambda url: url.mkdir(), lambda url: url.read_bytes(), lambda url: url.suffix):
        with pytest.raises(OSError, match="only datasets can be in an object store"):
            look(url)
    for command in (["calibrate", "--out"], ["inspect", "--plot"]):
        done = CliRunner().invoke(app, [*command, str(url)])
        assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    assert not (tmp_path / "s3:").exists()


def test_no_answer_and_no_keys_are_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", address)
        told = refused("s3://bucket/x")
    assert "no keys to the store in the environment or a profile" in told and address in told
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    assert "Missing SecretAccessKey" in refused("s3://bucket/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)  # where nothing listens any more
    assert "Connection refused" in refused("s3://bucket/x")


def test_a_reason_is_the_store_s_own_words() -> None:
    answer = "<?xml?>\n<Error><Code>C</Code><Message>No\nway</Message></Error>"
    assert (
        reason(f"Generic S3 error: GET http://h - 403 Forbidden: {answer}\n\nDebug source:\nX")
        == "Generic S3 error: GET http://h - 403 Forbidden: C: No way"
    )


def test_profiles_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / ".aws"
    home.mkdir()
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    (home / "config").write_text(f"[default]\nregion = eu-central-1\n[profile lab]\nendpoint_url = {address}\n")
    (home / "credentials").write_text(
        "[default]\naws_access_key_id = d\n[lab]\naws_access_key_id=k\naws_secret_access_key=s\n"
    )
    assert settings("s3:") == {"aws_region": "eu-central-1", "aws_access_key_id": "d"}
    monkeypatch.setenv("AWS_PROFILE", "lab")
    wanted = {"aws_endpoint_url": address, "aws_access_key_id": "k", "aws_secret_access_key": "s"}
    assert settings("s3:") == wanted
    try:
        import boto3

        boto3.client("s3", region_name="us-east-1", endpoint_url=address).create_bucket(Bucket="profiled")
        run = start(place("s3://profiled/x"))
        with replay.EpisodeWriter(run) as writer:
            writer.add(*make_episode(0, 1))
        dataset = replay.open_dataset("s3://profiled/x")  # and its scan, by polars
        assert dataset.episodes.collect()["episode"].to_list() == [0]
    finally:
        server.stop()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")  # the environment's keys come first
    assert settings("s3:") == {"aws_endpoint_url": address}


def test_profiles_that_are_not_there_or_have_no_keys_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert "AWS_PROFILE is lab" in refused("s3://bucket/x")
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for text, told in (
        ("[profile lab]\nsso_session = me\n", "has sso_session"),
        ("[profile lab]\nservices = mine\n", "names services"),
        ("[profile lab]\nendpoint_url = host:9\n", "aws_endpoint_url is 'host:9'"),
        ("lab\n", "cannot be read as profiles"),
    ):
        config.write_text(text)
        assert told in refused("s3://bucket/x")


def test_arrow_holds_nothing_of_python_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its threads would wait for Python to free it, and abort a process that is ending meanwhile."""
    write_dataset(tmp_path, 3, seed=0)
    content, gone = next((tmp_path / "episodes").rglob("*.parquet")).read_bytes(), []

    class Told(bytes):
        def __del__(self) -> None:
            gone.append(len(self))

    monkeypatch.setattr(Bucket, "source", lambda bucket, name: Told(content))
    with open_file(File(Bucket(URL("s3://bucket/x")), "episodes/run=r0000000/part-0-00000.parquet")) as file:
        assert gone == [len(content)] and file.read().num_rows == 3
