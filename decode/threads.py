"""How many CPU threads decode a model: as many as there are cores, or fewer where that is clearly faster.

For small layers it can be, as handing work over costs more than it saves. But what is chosen decides what a policy's
costs are, and other work makes more threads look slow for a moment: so only a trial on a calm machine counts, in which
fewer win again and again, by a clear margin.
"""

import contextlib
import os
import time
from statistics import median

import torch

from lede.decode.backends.compile import FOLDER
from lede.decode.device import cores, cpu_features, spent_by_all
from lede.decode.facts import config_hash_v2
from lede.decode.model import Model
from lede.ground import cache_folder, cache_name

SECONDS = 0.6  # of trying
TURNS = 8  # of all choices, at least
PASS = 0.02  # seconds of a pass; of models that take longer only some layers are tried, still more than caches hold
DRAFTS = 4  # of the round that is timed: a pass over one row, and one over the drafts and the token before them
BEFORE = 32  # positions in the cache
MARGIN, AGREE = 0.9, 0.8  # fewer threads take at most so much of the time, and less in so many of the turns
OTHERS = 0.15  # cores that other work may take during a trial

Shape = tuple[str, str, bool]  # of a model: config_hash_v2, dtype, whether it is decoded natively


def use_threads(model: Model, threads: int = 0) -> int:
    """Set torch's threads to `threads`, or for 0 to those that suit the model. Returns the number.

    1, 2, 4 … up to the number of cores are tried, once for each machine, shape of model, dtype and version: what a
    trial without other work found is kept in the user's cache folder. Beside other work it is as many as cores.
    """
    if threads == 0 and model.device.type == "cpu":
        choices, shape = _choices(), (config_hash_v2(model.config), str(model.dtype), model.native)
        threads = _kept(choices, shape) or _tried(model, choices, shape)
    if threads:
        model.use_threads(threads)
    return torch.get_num_threads()


def usual_threads(config_hash: str, dtype: str) -> int:
    """The number that `use_threads` gives a model on a CPU, by its `config_hash_v2` and dtype's name; tries none."""
    choices = _choices()
    kept = (_kept(choices, (config_hash, f"torch.{dtype}", native)) for native in (True, False))
    return next(filter(None, kept), choices[-1])


def _choices() -> list[int]:
    most = min(torch.get_num_threads(), cores())
    return sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})


def _name(choices: list[int], shape: Shape) -> str:
    machine = cpu_features(), os.cpu_count(), torch.__version__, (FOLDER / "native.c").read_text()
    return cache_name("threads", choices, *machine, *shape)


def _kept(choices: list[int], shape: Shape) -> int | None:
    """What an earlier trial found."""
    folder = cache_folder()
    with contextlib.suppress(OSError, ValueError):
        if folder is not None and (threads := int((folder / _name(choices, shape)).read_text())) in choices:
            return threads
    return None


def _tried(model: Model, choices: list[int], shape: Shape) -> int:
    """What a trial finds, which is kept; as many as there are where other work disturbs it."""
    if len(choices) == 1:
        return choices[0]
    seconds = timed(model, choices)
    if seconds is None:
        return choices[-1]
    threads, folder = clearly_fastest(seconds), cache_folder()
    with contextlib.suppress(OSError):
        if folder is not None:
            (folder / _name(choices, shape)).write_text(str(threads))
    return threads


def clearly_fastest(seconds: dict[int, list[float]]) -> int:
    """The most threads that no fewer ones clearly beat; `seconds` of each number's turns, taken one after the other."""
    best, *fewer = sorted(seconds, reverse=True)
    for threads in fewer:
        ratios = [a / b for a, b in zip(seconds[threads], seconds[best], strict=True)]
        if median(ratios) <= MARGIN and sum(ratio < 1 for ratio in ratios) >= AGREE * len(ratios):
            best = threads
    return best


@torch.inference_mode()
def timed(model: Model, choices: list[int]) -> dict[int, list[float]] | None:
    """Seconds of rounds with each number of threads, which take turns; None where other work takes a core meanwhile."""
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
    seconds: dict[int, list[float]] = {n: [] for n in choices}
    others, began = _others(), time.perf_counter()
    while (spent := time.perf_counter() - began) < SECONDS or len(seconds[choices[0]]) < TURNS:
        if spent > SECONDS / 3 and _others() - others > OTHERS * spent + 0.03:  # what is counted is counted in 10 ms
            return None
        for n in choices:
            model.use_threads(n)
            round_seconds()  # the first has to wake the threads
            seconds[n].append(min(round_seconds() for _ in range(2)))
    return seconds


def _others() -> float:
    """Seconds that cores were busy with other work than this process; always 0 where it is not told."""
    everyone = spent_by_all()
    return 0.0 if everyone is None else everyone - time.process_time()
