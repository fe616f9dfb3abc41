"""A collection that is interrupted or killed goes on where it was: nothing lost, nothing twice."""

import functools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lede import replay
from lede.collect.collector import CollectConfig, collect, describe_source
from lede.collect.prompts import load_prompts
from lede.decode.load import load_model
from tests.collect.small import same, tables

EPISODES = 120
#: `lede`, but every episode is committed by itself: as it is, a part of so small a collection is all of it.
SCRIPT = """
import functools
import lede.replay.writer as writer
writer.EpisodeWriter = functools.partial(writer.EpisodeWriter, flush_rows=1)
from lede.cli import main
main()
"""


#: A child of a shell's background job ignores Ctrl-C unless told otherwise.
hearing = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)


def parts(out: Path) -> int:
    return len(list(out.glob("transitions/*/*.parquet")))


@pytest.mark.slow
def test_an_interrupted_and_killed_collection_ends_as_an_undisturbed_one(checkpoint, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "data"
    prompts.write_text("".join(json.dumps({"prompt": f"def f{i}(x):"}) + "\n" for i in range(9)))
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        "collect",
        "--model",
        checkpoint,
        "--prompts",
        prompts,
        "--out",
        out,
        "--json",
        "--max-new-tokens",
        "24",
        "--episodes",
        str(EPISODES),
        "--dtype",
        "float32",
        "--threads",
        "1",
        "--sweep",
    ]
    delays, kept = random.Random(1), 0
    for how, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hearing)
        try:
            deadline = time.monotonic() + 300
            while parts(out) < kept + 5 and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(delays.uniform(0, 0.05))
            child.send_signal(how)
            _, said = child.communicate(timeout=120)
        finally:
            child.kill()
        assert child.returncode == code, said
        if how == signal.SIGINT:
            assert said.count("\n") == 1
            assert "goes on" in said
        assert all(finding.harmless for finding in replay.verify(out))
        assert kept < parts(out) < EPISODES
        kept = parts(out)

    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert json.loads(finished.stdout)["resumed"] == kept
    model = load_model(checkpoint, "float32")
    config = CollectConfig(EPISODES, max_new_tokens=24, sweep=True)
    chosen = load_prompts(prompts)
    collect(model, chosen, tmp_path / "undisturbed", config, source=describe_source(chosen))
    assert same(tables(out), tables(tmp_path / "undisturbed"))
    assert replay.verify(out) == []
