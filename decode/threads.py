"""How many CPU threads decode a model fastest: for small layers one, as handing work over costs more than it saves."""

import contextlib
import os
import time
from pathlib import Path

import torch

from lede.decode.backends.compile import FOLDER, cache_folder, cache_name
from lede.decode.device import cpu_features
from lede.decode.facts import config_hash_v2
from lede.decode.model import Model

SECONDS = 0.3  # of trying
PASS = 0.05  # seconds of a pass; of models that take longer only some layers are tried, still more than caches hold
DRAFTS = 4  # of the round that is timed: a pass over one row, and one over the drafts and the token before them
BEFORE = 32  # positions in the cache


def use_threads(model: Model, threads: int = 0) -> int:
    """Set torch's threads to `threads`, or for 0 to the fastest of 1, 2, 4 … up to the default. Returns the number.

    The fastest is kept in the user's cache folder, unless other work ran beside the trial, and tried anew for another
    machine, model, dtype or version.
    """
    if threads == 0 and model.device.type == "cpu":
        most = torch.get_num_threads()
        choices = sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})
        threads = kept(model, choices) if len(choices) > 1 else choices[0]
    if threads:
        model.use_threads(threads)
    return torch.get_num_threads()


def kept(model: Model, choices: list[int]) -> int:
    """`fastest`, from the cache folder where it was tried before."""
    machine = cpu_features(), os.cpu_count(), torch.__version__, (FOLDER / "native.c").read_text()
    computed = config_hash_v2(model.config), model.weights_hash, str(model.dtype), model.native
    name = cache_name("threads", choices, *machine, *computed)
    folder = cache_folder()
    with contextlib.suppress(OSError, ValueError):
        if folder is not None and (threads := int((folder / name).read_text())) in choices:
            return threads
    others = running()  # beside them more threads seem slower than they are: not to be kept
    threads = fastest(model, choices)
    with contextlib.suppress(OSError):
        if folder is not None and not others:
            (folder / name).write_text(str(threads))
    return threads


def running() -> int:
    """How many other threads run on this machine at this moment; 0 where that cannot be known."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1
    except (OSError, ValueError, IndexError):
        return 0


@torch.inference_mode()
def fastest(model: Model, choices: list[int]) -> int:
    """The number of threads with the shortest round; they take turns."""
    x, cache = model.embed([0] * (BEFORE + 1 + DRAFTS)), model.cache(BEFORE + 1 + DRAFTS)
    layers = model.layer_count
    model.read(x[:BEFORE], 0, cache)

    def round_seconds() -> float:
        began = time.perf_counter()
        for rows in (x[BEFORE : BEFORE + 1], x[BEFORE:]):
            out = model.run(0, layers, rows, BEFORE, cache)
            if layers == model.layer_count:
                model.head(out)
        return time.perf_counter() - began

    model.use_threads(choices[-1])
    round_seconds()
    layers = min(layers, max(1, int(layers * PASS / round_seconds())))
    seconds = dict.fromkeys(choices, float("inf"))
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        for n in choices:
            model.use_threads(n)
            round_seconds()  # the first has to wake the threads
            seconds[n] = min(seconds[n], round_seconds())
    return min(choices, key=seconds.__getitem__)
