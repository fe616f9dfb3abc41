"""What the operations of a round cost on this device, in milliseconds: the base of the time reward (design: DESIGN §6, §8)."""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from decode.loop import Decoding
from decode.lookup import LONGEST, Lookup
from decode.model import Model
from decode.rules import Autoregressive
from decode.sampling import Settings
from replay.costs import MAX_ROWS, Costs

REPEATS = 15
TOKENS = 48  # decoded to find the fixed cost of a round


@torch.inference_mode()
def measure(model: Model) -> Costs:
    """Time every operation over all layers in turn (a layer alone would sit in the cache), interleaved; medians."""
    position = min(model.context // 2, 256)
    cache = model.cache(position + MAX_ROWS)
    text = [int(t) for t in np.random.default_rng(0).integers(model.vocabulary, size=position)]
    for start in range(0, position, 64):
        model.run(0, model.layer_count, model.embed(text[start : start + 64][: position - start]), start, cache)
    inputs = {rows: model.embed(text[:rows]) for rows in range(1, MAX_ROWS + 1)}
    operations: dict[str, Callable[[], object]] = {}
    for rows, x in inputs.items():
        operations[f"layer{rows}"] = lambda x=x: model.run(0, model.layer_count, x, position, cache)
        operations[f"head{rows}"] = lambda x=x: model.head(x)
    logits = model.head(inputs[1])
    operations["features"] = lambda: model.statistics(logits)
    operations["decision"] = decision()
    lookup = Lookup(text)
    operations["lookup"] = lambda: (lookup.push(text[len(lookup) % LONGEST]), lookup.guess())
    found = timed(operations, model)
    layer = [found[f"layer{rows}"] / model.layer_count for rows in inputs]
    head = [found[f"head{rows}"] for rows in inputs]
    # the larger of neighbours: a cost falls with rows only by noise
    layer, head = list(np.maximum.accumulate(layer)), list(np.maximum.accumulate(head))
    a_round = round_seconds(model, text[: position // 2]) * 1e3 - (layer[0] * model.layer_count + head[0])
    return Costs(
        model.layer_count, tuple(map(float, layer)), tuple(map(float, head)), found["features"], found["decision"],
        found["lookup"], max(a_round, 0.0),
    )  # fmt: skip


def timed(operations: dict[str, Callable[[], object]], model: Model) -> dict[str, float]:
    """Median milliseconds of each operation; all take turns, so that a slow spell of the machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in operations}
    for repeat in range(REPEATS + 2):
        for name, run in operations.items():
            synchronise(model)
            began = time.perf_counter()
            run()
            synchronise(model)
            if repeat >= 2:
                seconds[name].append(time.perf_counter() - began)
    return {name: median(values) * 1e3 for name, values in seconds.items()}


def round_seconds(model: Model, prompt: list[int]) -> float:
    """Median seconds of a whole round that drafts nothing."""
    decoding = Decoding(model, prompt, Autoregressive(), Settings(max_new_tokens=TOKENS, stop_tokens=frozenset()))
    return median(round_.seconds for round_ in decoding.rounds())


def decision() -> Callable[[], object]:
    """One evaluation of a network of a policy's usual size, with its row of features."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((64, 20), (64, 64), (2, 64))]
    row = rng.standard_normal(20).astype(np.float32)

    def run() -> np.ndarray:
        x = row.copy()
        for weight in weights[:-1]:
            x = np.maximum(weight @ x, 0)
        return weights[-1] @ x

    return run


def synchronise(model: Model) -> None:
    """Wait for the device: a GPU's work is not done when the call returns."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
