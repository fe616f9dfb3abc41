"""However a command ends (signals, a full disk, a closed pipe), what is finished is kept, and one line says so."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

import lede.replay.folder
from lede import cli, replay
from lede.errors import Stopped, said_plainly, stop_on_signals
from tests.collect.small import collected
from tests.replay.synthetic import make_episode, start, write_dataset


def committed(path: Path) -> set[int]:
    return set(replay.open_dataset(path).episodes.collect()["episode"])


@pytest.fixture
def signals() -> Iterator[None]:
    """The handlers that a new process has, and afterwards those of before."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_commits_what_is_finished(number, tmp_path, capsys, signals):
    def report(done):
        if done.episodes == 3:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # the second one does not disturb the writing

    stop_on_signals()
    with pytest.raises(typer.Exit) as ended:
        said_plainly(lambda: collected(tmp_path / "data", progress=report))()
    assert ended.value.exit_code == 128 + number
    assert committed(tmp_path / "data") == {0, 1, 2}
    assert replay.verify(tmp_path / "data") == []
    said = "lede: stopped; what was written is complete, and the same command goes on from there\n"
    assert capsys.readouterr().err == said


def test_the_command_hears_signals(monkeypatch, signals):
    monkeypatch.setattr(cli, "app", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped):
        cli.main()


def test_signals_that_are_ignored_stay_so(signals):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    stop_on_signals()
    os.kill(os.getpid(), signal.SIGHUP)


def test_parts_are_written_early_and_then_by_time(tmp_path, monkeypatch):
    clock = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    run = start(tmp_path / "data")
    saved = []
    with replay.EpisodeWriter(run) as writer:
        for number in range(300):
            writer.add(*make_episode(number, max_new_tokens=4))
            clock += 1
            saved.append(len(list((tmp_path / "data" / "transitions").rglob("*.parquet"))))
    firsts = [saved.index(parts) for parts in range(1, 8)]
    assert firsts == [5, 16, 37, 78, 139, 200, 261]  # after 5, 10, 20, 40, 60, 60 … seconds


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], object]]:
    """A real limit on what can be written under `folder`; calling what it yields lifts it."""
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True
        ).returncode
    )
    if mounted:
        try:
            yield lambda: subprocess.check_call(["mount", "-o", "remount,size=64m", folder])
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (96 * 1024, limits[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("as_user", [False, True], ids=["tmpfs if root", "file size limit"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_user: bool) -> None:
    """What fits is written; the rest stays buffered, and is written when there is room."""
    if as_user:
        monkeypatch.setattr(os, "geteuid", lambda: 1)
    with small_disk(tmp_path / "disk") as lift:
        path = tmp_path / "disk" / "data"
        run = start(path)
        with replay.EpisodeWriter(run) as writer:
            writer.add(*make_episode(0, with_sweeps=True))
            writer.flush()
            for number in range(1, 40):
                writer.add(*make_episode(number, with_sweeps=True, max_new_tokens=400))
            if as_user:  # smaller parts fit
                writer.flush()
                assert run.committed() == set(range(40))
            for _ in range(2 - 2 * as_user):
                with pytest.raises(OSError, match="part-0-0000") as caught:
                    writer.flush()
                assert caught.value.errno == errno.ENOSPC
                assert caught.value.filename
                assert replay.verify(path) == []
                saved = run.committed()
                assert saved == set(range(len(saved))) and 1 < len(saved) < 40
            lift()
            writer.add(*make_episode(40))
        assert run.committed() == set(range(41))
        assert replay.verify(path) == []


@pytest.mark.parametrize("table", ["episodes", "sweeps", "transitions"])
def test_folder_that_cannot_be_written(tmp_path: Path, table: str) -> None:
    """Failing at any of the three renames undoes the ones before."""
    path = tmp_path / "data"
    run = start(path)
    (path / table).write_text("in the way")
    writer = replay.EpisodeWriter(run)
    writer.add(*make_episode(0, with_sweeps=True))
    with pytest.raises(OSError, match=f"{table}/run={run.id}"):
        writer.flush()
    assert list(path.rglob("*.parquet")) == list((path / ".staging").iterdir()) == []
    (path / table).unlink()
    writer.flush()
    assert run.committed() == {0}
    assert replay.verify(path) == []


def test_a_failed_flush_does_not_hide_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "data"
    run = start(path)
    with pytest.raises(RuntimeError, match="the model broke"), replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(0))
        (path / "transitions").write_text("in the way")
        raise RuntimeError("the model broke")
    lost = r"transitions/run=.*\. 1 finished episodes could not be saved, all others are in .*data"
    with pytest.raises(replay.DatasetError, match=lost), replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(0))


def test_a_full_disk_costs_a_collection_what_does_not_fit_any_more(tmp_path, monkeypatch):
    """Six of seven episodes fit: they are saved, and the message says so; the same command collects the seventh."""
    collected(tmp_path / "roomy")
    whole = sum(file.stat().st_size for file in (tmp_path / "roomy").rglob("*.parquet"))
    out = tmp_path / "data"
    stage, room = lede.replay.folder.stage, 0.95 * whole

    def full(path: Path, data: bytes) -> None:
        on_disk = sum(file.stat().st_size for end in (".parquet", ".tmp") for file in out.rglob(f"*{end}"))
        if on_disk + len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        stage(path, data)

    monkeypatch.setattr(lede.replay.folder, "stage", full)
    with pytest.raises(replay.DatasetError, match="No space left on device: ") as caught:
        collected(tmp_path / "data")
    kept = committed(tmp_path / "data")
    assert 3 <= len(kept) < 7
    assert f" {7 - len(kept)} finished episodes could not be saved, all others are in " in str(caught.value)
    monkeypatch.setattr(lede.replay.folder, "stage", stage)
    assert collected(tmp_path / "data").resumed == len(kept)
    assert committed(tmp_path / "data") == set(range(7))


@pytest.mark.parametrize("arguments", [("--help",), ("inspect", "data"), ("inspect", "data", "--json")], ids=" ".join)
def test_a_closed_pipe_ends_a_command_quietly(arguments, tmp_path):
    write_dataset(tmp_path / "data", 3, seed=0)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "lede", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, cwd=tmp_path, env=environment, timeout=60)
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == (1 if arguments == ("--help",) else 0)


@pytest.mark.parametrize("option", ["--json", "--trace", "--plain"])
def test_a_closed_pipe_ends_generate_quietly(option, checkpoint, monkeypatch, capsys, signals):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stdout", os.fdopen(write, "w"))
    arguments = ["lede", "generate", option, "--model", str(checkpoint), "--threads", "1", "--prompt", "x"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--max-new-tokens", "4"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "Traceback" not in capsys.readouterr().err
    sys.stdout.close()
