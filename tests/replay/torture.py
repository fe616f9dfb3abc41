"""Torture of the store: `python -m tests.replay.torture --kills 1000 --minutes 6`, or one `--case`.

After each trial every row that a writer had reported is there once, the next writers finish the plan, and the dataset
is row for row that of a run that nobody troubled. Only forked children touch Arrow and polars, whose threads do not
survive a fork.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

import lede.replay.folder
from lede import replay
from lede.replay.schema import SORT_KEYS, TABLES
from lede.terminal import bar, print_json, say
from tests.replay.synthetic import make_episode, start

WRITERS, ROUND, ENDLESS, REFUSED = 4, 50, 1_000_000, 3  # ROUND: kills a dataset; REFUSED: exit code of a child
Trials = Iterator[int]  # one item a trial


def child(work: Callable[..., None], *arguments: Any) -> int:
    """Start `work` in a process of its own; returns its id."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        work(*arguments)
        code = 0
    except replay.DatasetError as error:
        code = REFUSED if "at work" in str(error) or "being written" in str(error) else 4
        if code == 4:
            print(error, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) in (-signal.SIGKILL, 0), "it had died before of something else"


def write(path: Path, worker: int = 0, writers: int = 1, end: int = ENDLESS, stop_at: int | None = None) -> None:
    """Commit one episode after the other and tell of each; `stop_at`: pause before the n-th file becomes visible."""
    publish, calls = lede.replay.folder.publish, count()

    def pausing(staged: Path, file: Path, new: bool = False) -> None:
        if next(calls) == stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        publish(staged, file, new)

    lede.replay.folder.publish = pausing  # type: ignore[attr-defined]
    told = os.open(path.with_name("told"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    commit(path, worker, writers, end, told)


def commit(path: Path, worker: int, writers: int, end: int, told: int) -> None:
    """What `write` does; told: a descriptor that takes the numbers of committed episodes."""
    run = start(path)
    with replay.EpisodeWriter(run, worker) as writer:
        done = run.committed()
        for number in range(worker, end, writers):
            if number not in done:
                writer.add(*make_episode(number, with_sweeps=True, max_new_tokens=12))
                writer.flush()
                os.write(told, b"%d\n" % number)


def scan(path: Path, stop: Path) -> None:
    """A plain scan and the library's never see a row twice, nor fewer rows than before."""
    before = 0
    while not stop.exists():
        with suppress(FileNotFoundError):  # compaction
            if any((path / "transitions").rglob("*.parquet")):
                distinct = pl.struct("episode", "round", "step").n_unique().alias("distinct")
                scanned = pl.scan_parquet(path / "transitions/**/*.parquet")
                rows, different = scanned.select(pl.len(), distinct).collect().row(0)
                assert before <= rows == different, (before, rows, different)
                before = rows
        try:
            episodes = replay.open_dataset(path).read("episodes", [])[1]
            assert len(episodes) == len(set(episodes.tolist()))
        except replay.DatasetError as error:
            if error.kind != "vanished":
                raise


def tables(path: Path) -> dict[str, pl.DataFrame]:
    dataset = replay.open_dataset(path)
    return {name: getattr(dataset, name).collect().sort(SORT_KEYS[name]) for name in TABLES}


def check(path: Path, end: int = 0) -> None:
    """What was told of is there, and finishing the plan gives what a run gives that nobody troubled."""
    told, run = {int(line) for line in path.with_name("told").read_text().split()}, start(path)
    done = run.committed()
    assert told <= done, sorted(told - done)
    end = max([end, *(number + 1 for number in done)])
    write(path, end=end)
    untroubled = path.with_name("untroubled")
    untroubled.mkdir()
    write(untroubled / "data", end=end)
    ours, theirs = tables(path), tables(untroubled / "data")
    assert all(ours[name].equals(theirs[name]) for name in TABLES)
    if end:  # polars refuses to scan nothing
        assert pl.scan_parquet(path / "transitions/**/*.parquet").collect().height == theirs["transitions"].height
    assert replay.verify(path) == []


def checked(path: Path, end: int = 0) -> None:
    assert ended(child(check, path, end)) == 0, f"{path} is not what it should be"


def kills(folder: Path, chance: random.Random, most: int) -> Trials:
    """Writers killed at random moments, all at once before a compaction that is killed too, while readers scan."""
    for first in range(0, most, ROUND):
        path, stop = folder / str(first) / "data", folder / str(first) / "stop"
        path.parent.mkdir()
        start(path)
        reader, writers = child(scan, path, stop), [child(write, path, i, WRITERS) for i in range(WRITERS)]
        for number in range(first, min(first + ROUND, most)):
            time.sleep(chance.uniform(0, 0.25))
            victim = chance.randrange(WRITERS)
            kill(writers[victim])
            if number % 10 == 9:
                for other in {*range(WRITERS)} - {victim}:
                    kill(writers[other])
                compaction = child(replay.compact_dataset, path)
                time.sleep(chance.uniform(0, 0.3))
                writers = [child(write, path, i, WRITERS) for i in range(WRITERS)]
                kill(compaction)
            else:
                writers[victim] = child(write, path, victim, WRITERS)
            yield 1
        for writer in writers:
            kill(writer)
        stop.touch()
        assert ended(reader) == 0, "a reader saw what it should not"
        checked(path)


def pauses(folder: Path, chance: random.Random, most: int) -> Trials:
    """A writer paused before each file of a part, while another with its arguments and a compaction try their luck."""
    for trial in range(most):
        path = folder / str(trial) / "data"
        path.parent.mkdir()
        start(path)
        paused = child(write, path, 0, 1, 6, trial % 12)
        assert os.WIFSTOPPED(os.waitpid(paused, os.WUNTRACED)[1])
        assert ended(child(write, path, 0, 1, 6)) == REFUSED
        if (path / "transitions").exists():
            assert ended(child(replay.compact_dataset, path)) == REFUSED
        time.sleep(chance.uniform(0, 2))
        os.kill(paused, signal.SIGCONT)
        assert ended(paused) == 0
        checked(path, 6)
        yield 1


def rivals(folder: Path, chance: random.Random, most: int) -> Trials:
    """Several writers with the same arguments at once: refused, or they go on where another ended."""
    for trial in range(most):
        path = folder / str(trial) / "data"
        path.parent.mkdir()
        codes = [ended(pid) for pid in [child(write, path, 0, 1, 8) for _ in range(4)]]
        assert 0 in codes and {*codes} <= {0, REFUSED}, codes
        checked(path, 8)
        yield 1


def damage(folder: Path, chance: random.Random, most: int) -> Trials:
    """A flipped bit, a missing end, or a foreign file: found, set aside by repair, and collected again."""

    def harm(path: Path, kind: str) -> None:
        write(path, end=12)
        if chance.random() < 0.5:
            replay.compact_dataset(path, max_rows=chance.choice([50, 2_000_000]))
        file = chance.choice(sorted(path.rglob("*.parquet")))
        content = bytearray(file.read_bytes())
        if kind == "bit":
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            file.write_bytes(content)
        elif kind == "end":
            file.write_bytes(content[: chance.randrange(len(content))])
        else:
            pq.write_table(pq.read_table(file).select([1]).rename_columns(["petal"]), file.with_name("iris.parquet"))
        assert [finding for finding in replay.verify(path) if not finding.harmless]
        assert not replay.repair_dataset(path).left
        path.with_name("told").write_text("")  # what was lost may be collected again

    for trial in range(most):
        path = folder / str(trial) / "data"
        path.parent.mkdir()
        chance.random()  # the child's is a copy
        assert ended(child(harm, path, ("bit", "end", "foreign")[trial % 3])) == 0
        checked(path, 12)
        yield 1


def full(folder: Path, chance: random.Random, most: int) -> Trials:
    """Writers on a disk that gets full, one of them killed there; then there is room again."""
    for trial in range(most):
        inside = [sys.executable, "-m", "tests.replay.torture", "--disk", folder, "--seed", trial]
        shell = f'mount -t tmpfs -o size={chance.randrange(200, 600)}k tmpfs {folder} && exec "$@"'
        done = subprocess.run(["unshare", "-rm", "sh", "-c", shell, "sh", *map(str, inside)], check=False)
        assert done.returncode == 0, "see above; it needs unshare -rm and mount"
        yield 1


def fill(folder: Path, chance: random.Random) -> None:
    path = folder / "data"
    victim, other = (child(write, path, i, 2) for i in range(2))
    assert ended(other) == 4
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    assert ended(victim) in (-signal.SIGKILL, 4)
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    checked(path)


CASES = {"kills": kills, "pauses": pauses, "rivals": rivals, "damage": damage, "full": full}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.replay.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=24, help="of each other case")
    parser.add_argument("--minutes", type=float, default=20.0, help="no trial starts after")
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--disk", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    if asked.disk:
        return fill(asked.disk, chance)
    from lede.tables import grid

    end, results = time.monotonic() + 60 * asked.minutes, []
    for name in sorted([asked.case] if asked.case else CASES, key="kills".__eq__):  # kills last: they take what is left
        wanted, done, began = asked.kills if name == "kills" else asked.trials, 0, time.monotonic()
        with tempfile.TemporaryDirectory() as folder, bar(name, wanted, asked.json) as advance:
            for done, _ in enumerate(CASES[name](Path(folder), chance, wanted), 1):
                advance(done, "")
                # a dataset of kills is checked before the next begins
                if time.monotonic() > end and (name != "kills" or done % ROUND == 0):
                    break
        results.append({"case": name, "trials": done, "seconds": round(time.monotonic() - began, 1)})
    if asked.json:
        return print_json(results)
    table = grid("nothing lost, nothing doubled", "case", "trials", "seconds", "what")
    for row in results:
        table.add_row(str(row["case"]), str(row["trials"]), str(row["seconds"]), str(CASES[str(row["case"])].__doc__))
    say(table)


if __name__ == "__main__":
    main()
