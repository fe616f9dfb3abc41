"""What the operations of a round cost on this device, in milliseconds: the base of the time reward.

They are fitted to the times of real rounds, by rules that change exit layer and draft length every few rounds. Timed
alone an operation looks dearer (its data is cold each time) or cheaper (one layer again and again stays in the cache).
All kinds of rounds take turns, so that a slow spell of the machine hits all.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, cycle, islice, pairwise, product, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lede.decode.loop import Decoding
from lede.decode.model import Model
from lede.decode.round import Round
from lede.decode.rules import ExitRule, QPolicy
from lede.decode.sampling import Settings, chooser
from lede.decode.source import ModelSource
from lede.decode.state import State
from lede.policy import Policy
from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.fit import Sample, fit

try:
    import resource  # POSIX only
except ImportError:
    resource = None  # type: ignore[assignment]

SECONDS = 8.0  # how long to measure; longer only where one turn of all rules takes longer,
TURNS = 24  # and shorter only where so many have been taken: every rule's plan was gone through more than once
STARTS = (64, 320)  # tokens of the prompts, so that short and long texts are met
TOKENS = 160  # written behind each
LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 19, 24, MAX_ROWS - 1)
FEW = (1, 2, 4, 8, 12)  # of rules that see states: each draft adds the same
# What a sampled text's choice is timed with, rows of one verification, and how often.
SAMPLED = Settings(temperature=0.8, top_k=50, seed=0)
CHOSEN, CHOICES = 4, 50
ALIKE = 4  # rounds of one kind in a row; the first of them finds the caches as another kind left them, and is not used

Plan = Sequence[tuple[int, int]]  # exit layers and draft lengths; without drafts: plain decoding


class _Planned(ExitRule):
    """Takes another exit layer and draft length from a plan every few rounds, and looks at no more than it is told."""

    def __init__(self, plan: Plan, states: bool = False, lookup: bool = False):
        self.needs_state, self.needs_lookup = states, lookup
        self._start(plan)

    def _start(self, plan: Plan) -> None:
        self._turns = chain.from_iterable(repeat(cell, ALIKE) for cell in cycle(plan))
        self._next()

    def _next(self) -> None:
        exit_layer, self.max_drafts = next(self._turns)
        self.layers = (exit_layer,) if self.max_drafts else ()

    def finish(self, round_: Round) -> None:
        self._next()


class _Probe(_Planned, QPolicy):
    """Drafts as planned, but looks and thinks each time as a learned policy would."""

    def __init__(self, plan: Plan):
        QPolicy.__init__(self, _usual(tuple(sorted({exit_layer for exit_layer, _ in plan}))))
        self._start(plan)


def _usual(layers: tuple[int, ...]) -> Policy:
    """A policy of the usual size with arbitrary weights, but for a last bias that makes it always draft on."""
    features = (*State._fields[4:], "draft_index", *(f"layer={layer}" for layer in layers))
    sizes, rng = (len(features), 64, 64, 2), np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype(np.float32).T for shape in pairwise(sizes)]
    biases = [np.zeros(size, np.float32) for size in sizes[1:]]
    biases[-1][1] = 1e9
    mean, scale = np.zeros(sizes[0], np.float32), np.ones(sizes[0], np.float32)
    return Policy(features, layers, tuple(zip(weights, biases, strict=True)), mean, scale)


class _Synchronised:
    """A model on a GPU that waits for each early pass, so that no round's drafting is counted as its verification."""

    def __init__(self, model: Model):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def run(self, lo: int, hi: int, x: Tensor, position: int, cache: Any) -> Tensor:
        out = self._model.run(lo, hi, x, position, cache)
        if hi < self._model.layer_count:
            synchronise(self._model)
        return out


def measure(
    model: Model,
    seconds: float = SECONDS,
    progress: Callable[[float], None] = lambda share: None,
    average: bool = False,
    settings: Settings = SAMPLED,
) -> Costs:
    """Measure this model on its device. `progress` is told which share of the time has passed.

    What a typical round costs, or, with `average`, what rounds cost on average, the machine's slow spells included.
    settings: of the sampled texts in which a choice is to be charged.
    """
    choose, choose_draft = choosing(model, settings)
    fitted = fit(*gather(model, seconds, progress), model.layer_count, average)
    return replace(fitted, choose=choose, choose_draft=choose_draft)


def gather(
    model: Model, seconds: float = SECONDS, progress: Callable[[float], None] = lambda share: None
) -> tuple[list[Sample], list[tuple[int, float]]]:
    """Timed rounds, and timed readings of prompts (tokens, milliseconds): rules and prompts' lengths take turns."""
    samples: list[Sample] = []
    prompts: list[tuple[int, float]] = []
    kinds = rules(model.layer_count, model.exits.layers if model.exits else ())
    for rule in kinds:  # to warm up
        list(_write(model, rule, STARTS[0], []))
    began = time.perf_counter()
    for turn, start in enumerate(islice(cycle(STARTS), TURNS)):
        for number, rule in enumerate(kinds, 1):
            samples += _write(model, rule, start, prompts)
            if samples[-1].spoken:
                samples += [_head(model, start) for _ in range(ALIKE)]
            share = (time.perf_counter() - began) / max(seconds, 1e-9)
            progress(min(share, (turn + number / len(kinds)) / len(STARTS), 1.0))
        if turn + 1 >= len(STARTS) and time.perf_counter() - began >= seconds:
            break
    progress(1.0)
    return samples, prompts


@torch.inference_mode()
def choosing(model: Model, settings: Settings = SAMPLED) -> tuple[float, float]:
    """Milliseconds to choose one of the full model's tokens by `settings`, and one draft of a real layer (0: none)."""
    text = [int(token) for token in np.random.default_rng(0).integers(model.vocabulary, size=CHOSEN + 1)]
    cache, choose, last = model.cache(len(text) + 1, 1), chooser(settings, model, text), model.layer_count
    layer, x = min(max(last // 4, 1), last - 1), model.embed(text)  # whichever: they draft alike
    asked: list[Callable[[], object]] = []
    if layer:
        x = model.run(0, layer, x, 0, cache)
        draft = model.speak(layer, x, 0, cache)[-1:]
        asked.append(lambda: choose.drafts(draft, text, []))
    logits = model.head(model.run(layer, last, x, 0, cache))[1:]
    asked.append(lambda: choose.targets(logits, text[:2], text[2:]))
    spent: list[list[float]] = [[] for _ in asked]
    for _, (ask, times) in product(range(CHOICES), zip(asked, spent, strict=True)):
        synchronise(model)
        began = time.perf_counter()
        ask()
        times.append((time.perf_counter() - began) * 1e3)
    *drafting, verifying = (float(np.median(times)) for times in spent)
    return verifying / CHOSEN, sum(drafting)


def rules(layer_count: int, heads: tuple[int, ...] = ()) -> list[ExitRule]:
    """Plain decoding; rules that copy, think, see nothing, and see states, with what each drafts in a random order.

    They exit at the layers with exit heads, else at some from all over the lower half and a little above.
    """
    usual = {max(layer_count * sixteenths // 16, 1) for sixteenths in (2, 3, 4, 6, 9, 12)}
    exits = sorted({*heads} or usual - {layer_count})
    shallow = exits[:4]

    def plan(layers: Sequence[int], lengths: Sequence[int]) -> Plan:
        cells = list(product(layers, lengths))
        return random.Random(len(cells)).sample(cells, len(cells))

    planned: list[ExitRule] = [_Planned([(0, 0)]), _Planned(plan([0], LENGTHS), lookup=True)]
    planned.append(_Probe(plan([0, *shallow], FEW)))
    if exits:
        planned += [_Planned(plan(exits, LENGTHS)), _Planned(plan(shallow, FEW), states=True)]
    return planned


def _write(model: Model, rule: ExitRule, start: int, prompts: list[tuple[int, float]]) -> Iterator[Sample]:
    """Rounds that went as planned, behind another of their kind; `prompts` gets readings of rules without lookup."""
    start = min(start, max(model.context - TOKENS, model.context // 3, 1))
    # a prompt that repeats itself, so that there is always something to copy
    period = np.random.default_rng(0).integers(model.vocabulary, size=min(start, 24))
    prompt = [int(token) for token in np.resize(period, start)]
    settings = Settings(max_new_tokens=TOKENS, stop_tokens=frozenset())
    timed: Any = _Synchronised(model) if model.device.type == "cuda" else model
    synchronise(model)
    began = time.perf_counter()
    decoding = Decoding(ModelSource(timed, settings), prompt, rule)
    synchronise(model)
    if not rule.needs_lookup and start > 1:
        prompts.append((start, (time.perf_counter() - began) * 1e3))
    before, planned, earlier = None, (*rule.layers, rule.max_drafts), interruptions()
    for round_ in decoding.rounds():
        now = interruptions()
        if before == planned and len(round_.drafts) == planned[-1]:
            asked = sum(not decision.forced for decision in round_.decisions) if isinstance(rule, QPolicy) else 0
            yield Sample(
                exit_layer=round_.exit_layer or 0,
                drafts=len(round_.drafts),
                position=round_.position,
                states=rule.needs_state,
                lookup=rule.needs_lookup,
                decisions=asked,
                draft=round_.draft_seconds * 1e3,
                verify=round_.verify_seconds * 1e3,
                rest=(round_.seconds - round_.draft_seconds - round_.verify_seconds) * 1e3,
                interrupted=now > earlier,
                spoken=model.exits is not None or model.draft_vocabulary is not None,
            )
        before, planned, earlier = planned, (*rule.layers, rule.max_drafts), interruptions()


def _head(model: Model, position: int) -> Sample:
    """The model's head alone, over one row: where no draft goes through it, rounds hardly tell it from the layers."""
    x, earlier, began = model.embed([0]), interruptions(), time.perf_counter()
    model.head(x)
    synchronise(model)
    spent, last = (time.perf_counter() - began) * 1e3, model.layer_count
    interrupted = interruptions() > earlier
    return Sample(last, 0, position, False, False, 0, 0.0, spent, 0.0, interrupted, spoken=True)


def interruptions() -> int:
    """How often the system took a core from this process's threads; always 0 where it does not tell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def synchronise(model: Model) -> None:
    """Wait for the device: a GPU's work is not done when the call returns."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
