"""`python benchmarks/backends.py lede/models/lede-tiny`: a pass over 1…13 rows, natively and in torch operations."""

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from lede.decode.load import from_transformers
from lede.decode.model import Model

ROWS = (1, 2, 3, 5, 8, 13)
POSITION = 200
REPEATS = 30


def main(path: str) -> None:
    """Print a table for the checkpoint at `path`; backends, dtypes and rows take turns."""
    passes: dict[tuple[str, str, int], Callable[[], object]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        weights = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        for native in (True, False):
            model = from_transformers(weights, dtype, native=native)
            name = "native" if model.native else "eager"
            passes |= {(name, str(dtype).removeprefix("torch."), rows): one_pass(model, rows) for rows in ROWS}
    seconds: dict[tuple[str, str, int], list[float]] = {key: [] for key in passes}
    with torch.inference_mode():
        for _ in range(REPEATS):
            for key, run in passes.items():
                run()  # what ran before has left its own data in the cache
                began = time.perf_counter()
                run()
                seconds[key].append(time.perf_counter() - began)
    table = Table("backend", "dtype", *(f"{rows} rows" for rows in ROWS), title="ms a pass, one thread")
    for name, kind in dict.fromkeys((name, kind) for name, kind, _ in passes):
        table.add_row(name, kind, *(f"{median(seconds[name, kind, rows]) * 1e3:.2f}" for rows in ROWS))
    Console().print(table)


def one_pass(model: Model, rows: int) -> Callable[[], object]:
    """A function that runs all layers and the head over so many rows."""
    model.use_threads(1)
    cache = model.cache(POSITION + max(ROWS))
    x = model.embed([1] * rows)
    model.run(0, model.layer_count, model.embed([1] * POSITION), 0, cache)
    return lambda: model.head(model.run(0, model.layer_count, x, POSITION, cache))


if __name__ == "__main__":
    main(sys.argv[1])
