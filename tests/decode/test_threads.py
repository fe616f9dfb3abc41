"""Threads beside other work: what a team does that has fewer cores than members."""

import subprocess
import sys

import pytest

from lede.decode.backends.compile import library

CROWDED = """
import os, resource, torch
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from lede.decode.load import from_transformers
from tests.models import llama

model = from_transformers(llama(), torch.float32)
x, cache = model.embed([1, 2, 3]), model.cache(8)
alone = model.run(0, model.layer_count, x, 0, cache)
model.backend.use_threads(2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
for _ in range(2000):
    assert torch.equal(model.run(0, model.layer_count, x, 0, cache), alone)
print(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)
"""


@pytest.mark.skipif(library() is None, reason="no C compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="needs affinities")
def test_a_team_without_a_core_for_each_rests_and_writes_the_same():
    """Two threads on one core sleep at nearly every meeting, 24 a call here; a team that rests hardly meets."""
    done = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 12 * 2000
