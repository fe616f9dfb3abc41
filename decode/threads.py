"""How many CPU threads decode a model fastest: for small layers one, as handing work over costs more than it saves."""

from statistics import median

import torch

from lede.decode.loop import Decoding
from lede.decode.model import Model
from lede.decode.rules import LayerSkip
from lede.decode.sampling import Settings
from lede.decode.source import ModelSource

TOKENS = 40


def use_threads(model: Model, threads: int = 0) -> int:
    """Set torch's threads to `threads`, or for 0 to the fastest of 1, 2, 4 … up to the default. Returns the number."""
    if threads == 0 and model.device.type == "cpu":
        most = torch.get_num_threads()
        choices = sorted({2**i for i in range(most.bit_length())} | {most})
        threads = fastest(model, [n for n in choices if n <= most])
    if threads:
        model.use_threads(threads)
    return torch.get_num_threads()


def fastest(model: Model, choices: list[int]) -> int:
    """The number of threads with the smallest median time of a drafted and verified round; they take turns."""
    if len(choices) == 1:
        return choices[0]
    seconds: dict[int, list[float]] = {n: [] for n in choices}
    rule, prompt = LayerSkip(max(model.layer_count // 4, 1), 3), [0] * min(64, model.context // 2)
    for _ in range(3):
        for n in choices:
            model.use_threads(n)
            settings = Settings(max_new_tokens=TOKENS, stop_tokens=frozenset())
            rounds = [
                round_.seconds / len(round_.committed)
                for round_ in Decoding(ModelSource(model, settings), prompt, rule).rounds()
            ]
            seconds[n] += rounds[1:]
    return min(choices, key=lambda n: median(seconds[n]))
