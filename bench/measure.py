"""Methods interleaved prompt by prompt in one process, so that a slow spell of the machine hits all of them."""

import gc
import hashlib
import random
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace

from lede.decode.generate import generate
from lede.decode.model import Model
from lede.decode.round import Generation
from lede.decode.rules import ExitRule
from lede.decode.sampling import Settings
from lede.simulate.profile import synchronise

WARM_UP = 2  # prompts decoded by every method before anything is timed


@dataclass(frozen=True)
class Sample:
    """One method on one prompt. Seconds are wall time; a method that is not ours has no rounds and no split."""

    method: str
    prompt_id: str
    task: str
    token_ids: tuple[int, ...]
    seconds: float  # the prompt's reading included
    prompt_seconds: float = 0.0
    draft_seconds: float = 0.0  # the walks and the drafts, decisions included
    decision_seconds: float = 0.0  # of which: inside the rule
    verify_seconds: float = 0.0
    exits: tuple[int | None, ...] = ()  # a round each: the exit layer, None where nothing was drafted
    drafts: tuple[int, ...] = ()  # a round each: tokens drafted
    accepts: tuple[int, ...] = ()  # a round each: of those, accepted
    commits: tuple[int, ...] = ()  # a round each: tokens written
    text: str = ""

    @property
    def rounds(self) -> int:
        """Verifications."""
        return len(self.exits)

    @property
    def drafting_rounds(self) -> int:
        """Rounds that drafted."""
        return sum(layer is not None for layer in self.exits)

    @property
    def exit_layers(self) -> int:
        """Summed over the rounds that drafted."""
        return sum(layer for layer in self.exits if layer is not None)

    @property
    def drafted(self) -> int:
        """Tokens drafted."""
        return sum(self.drafts)

    @property
    def accepted(self) -> int:
        """Drafts that the full model confirmed."""
        return sum(self.accepts)

    @property
    def host_seconds(self) -> float:
        """What is neither prompt, draft nor verification: committing, indices, the loop itself."""
        return self.seconds - self.prompt_seconds - self.draft_seconds - self.verify_seconds if self.rounds else 0.0


Run = Callable[[list[int], int], tuple[tuple[int, ...], Generation | None]]


@dataclass(frozen=True)
class Method:
    """A name and how it decodes one prompt: token ids and a seed in; new token ids out, and our Generation if ours."""

    name: str
    run: Run


def rule_method(model: Model, rule: ExitRule, settings: Settings, name: str | None = None) -> Method:
    """Our decoder under an exit rule."""

    def run(ids: list[int], seed: int) -> tuple[tuple[int, ...], Generation | None]:
        done = generate(model, ids, rule, replace(settings, seed=seed))
        return done.token_ids, done

    return Method(name or rule.name, run)


def measure(
    model: Model,
    methods: Sequence[Method],
    prompts: Sequence[tuple[str, str, list[int]]],
    done: Container[tuple[str, str]] = (),
    starting: Callable[[str, int], None] = lambda method, number: None,
) -> Iterator[Sample]:
    """Yield a Sample for every prompt (id, task, token ids) and method; each prompt in an order of its own.

    What is in `done`, as (method, prompt id), was measured before and is left out.
    `starting` hears of each run before it begins: the method, and the prompt's number (-1: it warms up).
    """
    left = [(m, p) for p in prompts for m in methods if (m.name, p[0]) not in done]
    due = {method.name for method, _ in left}
    for prompt_id, _, ids in prompts[:WARM_UP]:
        for method in methods:
            if method.name in due:
                starting(method.name, -1)
                method.run(ids, seed_of(prompt_id))
    for number, (prompt_id, task, ids) in enumerate(prompts):
        for method in random.Random(number).sample(methods, len(methods)):  # none always runs behind the same other
            if (method.name, prompt_id) in done:
                continue
            starting(method.name, number)
            gc.collect()  # or a run pays for what the one before it left
            synchronise(model)
            began = time.perf_counter()
            tokens, generation = method.run(ids, seed_of(prompt_id))
            synchronise(model)
            yield sample(model, method.name, prompt_id, task, tokens, time.perf_counter() - began, generation)


def sample(
    model: Model, name: str, prompt_id: str, task: str, tokens: tuple[int, ...], seconds: float, done: Generation | None
) -> Sample:
    """Put what a run returned into a Sample."""
    if done is None:
        text = str(model.tokenizer.decode(list(tokens), skip_special_tokens=True)) if model.tokenizer else ""
        return Sample(name, prompt_id, task, tokens, seconds, text=text)
    rounds = done.rounds
    return Sample(
        name, prompt_id, task, tokens, seconds, done.prefill_seconds,
        draft_seconds=sum(r.draft_seconds for r in rounds),
        decision_seconds=sum(r.decision_seconds for r in rounds),
        verify_seconds=sum(r.verify_seconds for r in rounds),
        exits=tuple(r.exit_layer for r in rounds),
        drafts=tuple(len(r.drafts) for r in rounds),
        accepts=tuple(r.accepted for r in rounds),
        commits=tuple(len(r.committed) for r in rounds),
        text=done.text,
    )  # fmt: skip


def seed_of(prompt_id: str) -> int:
    """What every method samples this prompt with."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:7], "big")
