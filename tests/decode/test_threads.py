"""How many threads decode, and what a team of them does that has fewer cores than members."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lede.cli import app
from lede.commands.loading import other_costs
from lede.decode import device, threads
from lede.decode.backends.compile import library
from lede.decode.device import device_facts
from lede.decode.facts import config_hash_v2
from lede.decode.load import from_transformers
from tests.models import byte_llama, byte_tokenizer, llama
from tests.serve.test_generate import random_policy

CROWDED = """
import os, resource, torch
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from lede.decode.load import from_transformers
from tests.models import llama

model = from_transformers(llama(), torch.float32)
x, cache = model.embed([1, 2, 3]), model.cache(8)
alone = model.run(0, model.layer_count, x, 0, cache)
model.backend.use_threads(2)
slept = []
for _ in range(8):  # in some of these stretches other work leaves the core alone
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(250):
        assert torch.equal(model.run(0, model.layer_count, x, 0, cache), alone)
    slept.append(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)
print(min(slept))
"""


@pytest.mark.slow
@pytest.mark.skipif(library() is None, reason="no C compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="needs affinities")
def test_a_team_without_a_core_for_each_rests_and_writes_the_same():
    """Two threads on one core sleep at nearly every meeting, 24 a call here; a team that rests hardly meets."""
    done = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 12 * 250


@pytest.fixture
def machine(tmp_path, monkeypatch) -> list[list[int]]:
    """One of four cores, with an empty cache folder, where two threads are fastest; what was tried there."""
    tried: list[list[int]] = []

    def timed(model, choices):
        tried.append(choices)
        return {n: [1.0 if n == 2 else 2.0] * 8 for n in choices}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(threads, "timed", timed)
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    return tried


def test_the_number_of_threads_is_tried_once_for_a_machine_and_a_shape_of_model(machine, tmp_path, monkeypatch):
    models = [from_transformers(llama(seed), torch.float32) for seed in (0, 1)]
    for model in (*models, models[0]):
        threads.use_threads(model)
        assert machine == [[1, 2, 4]]
        assert model.backend._models[0].threads == 2
    assert threads.usual_threads(config_hash_v2(models[0].config), "float32") == 2
    assert threads.usual_threads("of another", "float32") == 4
    threads.use_threads(models[0], 3)  # as asked for
    assert models[0].backend._models[0].threads == 3
    monkeypatch.setattr(threads, "cpu_features", lambda: "another processor")
    threads.use_threads(models[0])
    assert len(machine) == 2
    for path in (tmp_path / "lede").glob("threads-*"):
        path.write_text("torn")
    threads.use_threads(models[0])
    assert len(machine) == 3


def test_beside_other_work_they_are_as_many_as_cores_and_tried_again(machine, monkeypatch):
    monkeypatch.setattr(threads, "timed", lambda model, choices: machine.append(choices))
    model = from_transformers(llama(), torch.float32)
    for tries in (1, 2):
        threads.use_threads(model)
        assert model.backend._models[0].threads == 4
        assert len(machine) == tries


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: [0.5] * 8, 2: [1.0] * 8}, 1),
        ({1: [0.95] * 8, 2: [1.0] * 8}, 2),  # by no clear margin
        ({1: [0.1, 0.1, 0.5, 0.5, 0.6, 1.5, 1.5, 1.5], 2: [1.0] * 8}, 2),  # not again and again
        ({1: [1.0] * 8, 2: [0.5] * 8, 4: [2.0] * 8}, 2),
        ({1: [0.7] * 8, 2: [0.8] * 8, 4: [0.85] * 8}, 1),
        ({1: [1.0] * 8}, 1),
    ],
)
def test_fewer_threads_have_to_win_clearly(seconds, chosen):
    assert threads.clearly_fastest(seconds) == chosen


@pytest.mark.parametrize("native", [True, False])
def test_choices_take_turns_until_other_work_disturbs_them(native, monkeypatch):
    model = from_transformers(llama(), torch.float32, native=native)
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "SECONDS", 0.01)
    monkeypatch.setattr(threads, "_others", lambda: 0.0)
    seconds = threads.timed(model, [1, 2])
    assert [len(seconds[n]) >= threads.TURNS for n in (1, 2)] == [True, True]
    clock = iter(range(1000))
    monkeypatch.setattr(threads, "_others", lambda: float(next(clock)))
    assert threads.timed(model, [1, 2]) is None
    torch.set_num_threads(before)


def test_what_other_processes_do_is_counted():
    """A busy process beside this one, which sleeps."""
    if device.spent_by_all() is None:
        pytest.skip("the system does not tell")
    before = threads._others()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    assert threads._others() - before > 0.3


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"/proc/self/cgroup": ["0::/"], "/sys/fs/cgroup/cpu.max": ["max 100000"]}, 8),
        ({"/proc/self/cgroup": ["0::/"], "/sys/fs/cgroup/cpu.max": ["250000 100000"]}, 2),
        ({"/proc/self/cgroup": ["0::/not/here"], "/sys/fs/cgroup/cpu.max": ["50000 100000"]}, 1),
        (
            {
                "/proc/self/cgroup": ["4:memory:/", "1:cpu,cpuacct:/"],
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": ["300000"],
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": ["100000"],
            },
            3,
        ),
        (
            {
                "/proc/self/cgroup": ["1:cpu:/"],
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": ["-1"],
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": ["100000"],
            },
            8,
        ),
    ],
)
def test_cores_are_those_that_this_process_may_use(files, cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(8)}, raising=False)
    monkeypatch.setattr(device, "_lines", lambda path: files.get(str(path), []))
    monkeypatch.setattr(Path, "is_dir", lambda path: path.name != "here")
    assert device.cores() == cores


def test_a_policy_with_the_costs_of_other_threads_is_told(tmp_path):
    byte_llama().save_pretrained(tmp_path / "tiny")
    byte_tokenizer().save_pretrained(tmp_path / "tiny")
    policy = random_policy(from_transformers(byte_llama(), torch.float32, tokenizer=byte_tokenizer()))
    here = device_facts() | {"type": "cpu", "threads": 1}
    assert other_costs(policy, here) is None  # it does not tell
    command = ["generate", "-p", "def f(", "--model", tmp_path / "tiny", "--policy", tmp_path / "p"]
    command += ["--threads", 1, "--dtype", "float32", "--max-new-tokens", 2, "--device", "cpu"]
    for told, words in (
        (here, ""),
        (here | {"threads": 7}, "the policy was learned with the costs of 7 threads, not of 1 threads"),
        (here | {"name": "Abacus"}, "the costs of Abacus, 1 threads, not of"),
    ):
        policy.info["device"] = told
        policy.save(tmp_path / "p")
        done = CliRunner().invoke(app, [*map(str, command)])
        assert done.exit_code == 0
        lines = [line for line in done.stderr.splitlines() if line.startswith("the policy was learned")]
        assert len(lines) == bool(words) and words in "".join(lines)
