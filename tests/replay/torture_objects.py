"""Torture of a dataset in an object store: `python -m tests.replay.torture_objects --seconds 150`.

Against moto's S3 server: three writers, two of them rivals with one number, are killed at random moments while a
compaction runs, which is killed too, and a reader scans. Then every row that a writer had reported must be there once,
the next writer finishes the plan, and the dataset is row for row that of a run that nobody troubled.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lede import replay
from lede.replay.store import place
from lede.terminal import print_json
from tests.replay import torture
from tests.replay.synthetic import start

URL, PORT, END = "s3://bucket/data", 5599, 100_000
ROLES = ((0, 2), (0, 2), (1, 2))  # writer, of how many
SETTINGS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
SETTINGS["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{PORT}"


def write(worker: int, writers: int, end: int, told: str) -> None:
    """Commit one episode after the other and tell of each; begin again where a rival was first."""
    report = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        try:
            return torture.commit(place(URL), worker, writers, end, report)
        except replay.DatasetError as error:
            if "at work" not in str(error) and error.kind != "vanished":
                raise


def compact() -> None:
    replay.compact_dataset(place(URL))


def scan() -> None:
    """No episode twice, none without its rows, and never fewer than before."""
    before = 0
    while True:
        try:
            dataset = replay.open_dataset(place(URL))
            rows = dataset.read("transitions", [])[1].tolist()
            episodes = dataset.read("episodes", [])[1].tolist()
            assert len(episodes) == len(set(episodes)) >= before and {*rows} <= {*episodes}
            before = len(episodes)
        except replay.DatasetError as error:
            if error.kind != "vanished":
                raise


def process(role: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.replay.torture_objects", "--role", role, *map(str, arguments)]
    return subprocess.Popen(command)


def tortured(seconds: float, chance: random.Random, told: Path) -> dict[str, int]:
    """How often what was killed."""
    kills, killed, compactions = 0, 0, 0
    reader, compaction = process("scan"), process("compact")
    writers = [process("write", *role, END, told) for role in ROLES]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.3, 3))
        victim = chance.randrange(len(ROLES))
        assert writers[victim].poll() is None, "a writer ended by itself"
        writers[victim].kill()
        writers[victim].wait()
        writers[victim] = process("write", *ROLES[victim], END, told)
        kills += 1
        if compaction.poll() is None and chance.random() < 0.1:
            compaction.kill()
            compaction.wait()
            killed += 1
        if compaction.poll() is not None:
            assert compaction.returncode in (0, -9), "a compaction failed"
            compactions += 1
            compaction = process("compact")
        assert reader.poll() is None, "the reader saw something wrong"
    for one in (*writers, compaction, reader):
        one.kill()
        one.wait()
    return {"writers killed": kills, "compactions": compactions, "of them killed": killed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        role, *more = given.role
        if role == "write":
            write(*map(int, more[:3]), more[3])  # type: ignore[misc, call-arg]
        else:
            {"compact": compact, "scan": scan}[role]()
        return
    os.environ |= SETTINGS
    folder = Path(tempfile.mkdtemp())
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(PORT)], **quiet)  # type: ignore[call-overload]
    try:
        import boto3

        time.sleep(3)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        run = start(place(URL))
        found = tortured(given.seconds, random.Random(given.seed), folder / "told")
        told, done = {int(line) for line in (folder / "told").read_text().split()}, run.committed()
        assert told <= done, sorted(told - done)
        assert all(finding.harmless for finding in replay.verify(place(URL)))
        end = max(done) + 1
        write(0, 1, end, str(folder / "told"))
        torture.write(folder / "data", end=end)
        ours, theirs = torture.tables(place(URL)), torture.tables(folder / "data")
        assert all(ours[name].equals(theirs[name]) for name in theirs)
        print_json(found | {"episodes": end, "lost or doubled": 0})
    finally:
        server.kill()


if __name__ == "__main__":
    main()
