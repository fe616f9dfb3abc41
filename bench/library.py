"""`transformers`' own decoding of the same checkpoint: plain, and with its early-exit drafts."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from lede.bench.measure import Method
from lede.decode.model import Model
from lede.decode.round import Generation
from lede.decode.sampling import Settings, sampling_columns

LENGTHS = (2, 4, 8)  # values of num_assistant_tokens that are tried
TRIED_ON = 3  # training prompts
TRIED_TOKENS = 64


class Library:
    """The library's model on the decoder's dtype and device, with the number of threads that suits it best."""

    def __init__(self, model: Model, path: str, settings: Settings):
        self.model, self.settings = model, settings
        theirs: Any = AutoModelForCausalLM.from_pretrained(path, dtype=model.dtype)
        self.theirs = theirs.to(model.device).eval()
        # without the checkpoint's own logits processors, as the methods that it is compared with
        self.theirs.generation_config = GenerationConfig(eos_token_id=sorted(model.stop_tokens) or None)
        self._ours = torch.get_num_threads()
        probe = [i % model.vocabulary for i in range(1, 33)]
        self._threads = best_threads(lambda: self._write(probe, min(24, model.context - 32), 0), self._ours)

    def write(
        self, ids: list[int], seed: int, most: int | None = None, exit_layer: int | None = None, drafts: int = 0
    ) -> tuple[int, ...]:
        """The new tokens of `generate`; with an exit layer, of its self-speculative decoding with so many drafts."""
        torch.set_num_threads(self._threads)
        tokens = min(most or self.settings.max_new_tokens, self.model.context - len(ids))
        try:
            if exit_layer is None:
                return self._write(ids, tokens, seed)
            with drafting(self.theirs, drafts):
                return self._write(ids, tokens, seed, assistant_early_exit=exit_layer)
        finally:
            torch.set_num_threads(self._ours)

    def _write(self, ids: list[int], tokens: int, seed: int, **more: Any) -> tuple[int, ...]:
        inputs = torch.tensor([ids], device=self.model.device)
        how: dict[str, Any] = {"do_sample": False}
        sampled = sampling_columns(self.settings)
        if sampled["temperature"]:
            torch.manual_seed(seed)
            how = {name: sampled[name] for name in ("temperature", "top_k", "top_p")} | {"do_sample": True}
        mask = torch.ones_like(inputs)
        out = self.theirs.generate(inputs, attention_mask=mask, max_new_tokens=tokens, pad_token_id=0, **how, **more)
        return tuple(out[0, len(ids) :].tolist())

    def method(self, name: str, **early: int) -> Method:
        """A row of the bench: a Generation without rounds."""
        return writer_method(self.model, name, lambda ids, seed: self.write(ids, seed, **early))

    def tune(self, prompts: Sequence[list[int]], progress: Callable[[int, int], None]) -> dict[str, Any]:
        """The fastest of a few exit layers and draft lengths on training prompts."""
        layers = sorted({max(self.model.layer_count // part, 1) for part in (8, 4, 2)})
        options = [{"exit_layer": layer, "drafts": drafts} for layer, drafts in itertools.product(layers, LENGTHS)]
        return fastest(partial(self.write, seed=0), options, prompts, self.settings, progress)


def writer_method(model: Model, name: str, write: Callable[[list[int], int], tuple[int, ...]]) -> Method:
    """A row of the bench for another decoder: a Generation of which only the tokens are known."""

    def run(ids: list[int], seed: int) -> Generation:
        tokens, tokenizer = write(ids, seed), model.tokenizer
        text = str(tokenizer.decode(list(tokens), skip_special_tokens=True)) if tokenizer else ""
        return Generation(tuple(ids), tokens, text, "unknown", 0.0, 0.0, ())

    return Method(name, run)


def fastest(
    write: Callable[..., tuple[int, ...]],
    options: Sequence[dict[str, int]],
    prompts: Sequence[list[int]],
    settings: Settings,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """The fastest of a few ways to write, on some of the training prompts; they take turns."""
    spent = np.zeros((len(options), 2))  # tokens, seconds
    runs = list(itertools.product(prompts[:TRIED_ON], range(len(options))))
    for number, (ids, option) in enumerate(runs, 1):
        began = time.perf_counter()
        tokens = write(ids, most=min(TRIED_TOKENS, settings.max_new_tokens), **options[option])
        spent[option] += len(tokens), time.perf_counter() - began
        progress(number, len(runs))
    rates = spent[:, 0] / spent[:, 1]
    best = int(rates.argmax())
    return {"parameters": options[best], "measured": float(rates[best]), "scored": len(options)}


@contextmanager
def drafting(theirs: Any, drafts: int) -> Iterator[None]:
    """Have the library draft so many tokens per round; its model is as it was afterwards, even after an interrupt.

    The library takes `num_assistant_tokens` from the drafting model's own configuration and not from `generate`'s
    arguments, and shortens `config.num_hidden_layers` while it drafts.
    """
    before, layers = theirs.generation_config.num_assistant_tokens, theirs.config.num_hidden_layers
    theirs.generation_config.num_assistant_tokens = drafts
    try:
        yield
    finally:
        theirs.generation_config.num_assistant_tokens = before
        theirs.config.num_hidden_layers = layers


def best_threads(work: Callable[[], object], ours: int) -> int:
    """The faster of the decoder's number of threads and every core, on `work`."""
    choices = sorted({ours, torch.multiprocessing.cpu_count()})
    seconds = dict.fromkeys(choices, float("inf"))
    for threads in choices * 3:
        torch.set_num_threads(threads)
        began = time.perf_counter()
        work()
        seconds[threads] = min(seconds[threads], time.perf_counter() - began)
    torch.set_num_threads(ours)
    return min(choices, key=seconds.__getitem__)
