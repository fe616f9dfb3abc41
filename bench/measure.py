"""Methods interleaved prompt by prompt in one process, so that a slow spell of the machine hits all of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from collect.costs import synchronise
from decode.generate import generate
from decode.model import Model
from decode.round import Generation
from decode.rules import ExitRule
from decode.sampling import Settings

WARM_UP = 2  # prompts decoded by every method before anything is timed


@dataclass(frozen=True)
class Sample:
    """One method on one prompt."""

    method: str
    prompt_id: str
    task: str
    token_ids: tuple[int, ...]
    seconds: float
    rounds: int
    drafting_rounds: int
    exit_layers: int  # summed over the rounds that drafted
    drafted: int
    accepted: int
    verify_seconds: float
    text: str


@dataclass(frozen=True)
class Method:
    """A name and how it decodes one prompt: token ids in, new token ids out, with our Generation where it is ours."""

    name: str
    run: Callable[[list[int]], tuple[tuple[int, ...], Generation | None]]


def rule_method(model: Model, rule: ExitRule, settings: Settings, name: str | None = None) -> Method:
    """Our decoder under an exit rule."""

    def run(ids: list[int]) -> tuple[tuple[int, ...], Generation | None]:
        done = generate(model, ids, rule, settings)
        return done.token_ids, done

    return Method(name or rule.name, run)


def library_method(model: Model, path: str, settings: Settings) -> Method:
    """`transformers`' own generate on the same checkpoint, dtype and device, with the threads that suit it best."""
    theirs: Any = AutoModelForCausalLM.from_pretrained(path, dtype=model.dtype)
    theirs = theirs.to(model.device).eval()

    def write(ids: list[int], tokens: int) -> tuple[int, ...]:
        inputs = torch.tensor([ids], device=model.device)
        mask = torch.ones_like(inputs)
        out = theirs.generate(inputs, attention_mask=mask, do_sample=False, max_new_tokens=tokens, pad_token_id=0)
        return tuple(out[0, len(ids) :].tolist())

    ours = torch.get_num_threads()
    threads = best_threads(lambda: write(list(range(1, 33)), 24), ours)

    def run(ids: list[int]) -> tuple[tuple[int, ...], Generation | None]:
        torch.set_num_threads(threads)
        try:
            return write(ids, min(settings.max_new_tokens, model.context - len(ids))), None
        finally:
            torch.set_num_threads(ours)

    return Method("transformers", run)


def best_threads(work: Callable[[], object], ours: int) -> int:
    """The faster of the decoder's number of threads and every core, on `work`."""
    choices = sorted({ours, torch.multiprocessing.cpu_count()})
    seconds = dict.fromkeys(choices, float("inf"))
    for _ in range(3):
        for threads in choices:
            torch.set_num_threads(threads)
            began = time.perf_counter()
            work()
            seconds[threads] = min(seconds[threads], time.perf_counter() - began)
    torch.set_num_threads(ours)
    return min(choices, key=seconds.__getitem__)


def measure(model: Model, methods: Sequence[Method], prompts: Sequence[tuple[str, str, list[int]]]) -> Iterator[Sample]:
    """Yield a Sample for every prompt (id, task, token ids) and method; the methods' order turns with the prompts."""
    for _, _, ids in prompts[:WARM_UP]:
        for method in methods:
            method.run(ids)
    for number, (prompt_id, task, ids) in enumerate(prompts):
        shift = number % len(methods)
        for method in [*methods[shift:], *methods[:shift]]:
            synchronise(model)
            began = time.perf_counter()
            tokens, done = method.run(ids)
            synchronise(model)
            yield sample(method.name, prompt_id, task, tokens, time.perf_counter() - began, done)


def sample(
    name: str, prompt_id: str, task: str, tokens: tuple[int, ...], seconds: float, done: Generation | None
) -> Sample:
    """Put what a run returned into a Sample."""
    rounds = done.rounds if done is not None else ()
    layers = [r.exit_layer for r in rounds if r.exit_layer is not None]
    return Sample(
        name, prompt_id, task, tokens, seconds, len(rounds), len(layers), sum(layers),
        sum(len(r.drafts) for r in rounds), sum(r.accepted for r in rounds), sum(r.verify_seconds for r in rounds),
        done.text if done is not None else "",
    )  # fmt: skip
