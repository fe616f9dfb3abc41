"""Methods interleaved prompt by prompt in one process, so that a slow spell of the machine hits all of them."""

import gc
import random
import time
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace

from lede.decode.generate import generate
from lede.decode.model import Model
from lede.decode.round import Generation
from lede.decode.rules import ExitRule
from lede.decode.sampling import Settings
from lede.ground import stable_hash
from lede.process import Measured, Sums
from lede.simulate.profile import synchronise

WARM_UP = 2  # prompts decoded by every method before anything is timed


@dataclass(frozen=True)
class Sample(Measured):
    """One method on one prompt. Seconds are wall time; a method of the library has no rounds and no split of them."""

    method: str
    prompt_id: str
    task: str
    token_ids: tuple[int, ...]
    seconds: float  # the prompt's reading included
    prompt_seconds: float = 0.0
    draft_seconds: float = 0.0  # the walks and the drafts, decisions included
    decision_seconds: float = 0.0  # of which: inside the rule
    verify_seconds: float = 0.0
    choose_seconds: float = 0.0  # of drafting and verifying: making tokens of logits
    exits: tuple[int | None, ...] = ()  # per round: the exit layer, None where nothing was drafted
    drafts: tuple[int, ...] = ()  # per round: tokens drafted
    accepts: tuple[int, ...] = ()  # per round: of those, accepted
    commits: tuple[int, ...] = ()  # per round: tokens written
    text: str = ""

    @property
    def sums(self) -> Sums:
        """See `Measured`."""
        return Sums.of(len(self.token_ids), self.seconds, [*zip(self.exits, self.drafts, self.accepts, strict=True)])


@dataclass(frozen=True)
class Method:
    """A name, and how it decodes the token ids of one prompt with a seed."""

    name: str
    run: Callable[[list[int], int], Generation]


def prompt_seed(seed: int | None, ids: Sequence[int]) -> int:
    """The seed of a prompt's sampled text: of the run's own and of the prompt, whatever is run beside it."""
    return stable_hash(f"{seed}/{[*ids]}")


def speed(samples: Sequence[Sample]) -> float:
    """Σtokens/Σseconds."""
    return Sums.total(samples).tokens_per_s


def rule_method(model: Model, rule: ExitRule, settings: Settings, name: str | None = None) -> Method:
    """Our decoder under an exit rule."""
    return Method(name or rule.name, lambda ids, seed: generate(model, ids, rule, replace(settings, seed=seed)))


def measure(
    model: Model,
    methods: Sequence[Method],
    prompts: Sequence[tuple[str, str, list[int]]],
    seed: int | None = None,
    done: Container[tuple[str, str]] = (),
    starting: Callable[[str, int], None] = lambda method, number: None,
) -> Iterator[Sample]:
    """Yield a Sample for every prompt (id, task, token ids) and method; each prompt in an order of its own.

    Every method samples a prompt with the same seed, which follows from `seed` (`prompt_seed`). What is in `done`, as
    (method, prompt id), was measured before and is left out. `starting` is called before each run with the method and
    the prompt's number (-1: warm-up).
    """
    due = {m.name for m in methods for p in prompts if (m.name, p[0]) not in done}
    for _, _, ids in prompts[:WARM_UP]:
        for method in methods:
            if method.name in due:
                starting(method.name, -1)
                method.run(ids, prompt_seed(seed, ids))
    gc.collect()
    gc.freeze()  # what is there by now is not looked through again: a collection takes 1 ms instead of 400
    for number, (prompt_id, task, ids) in enumerate(prompts):
        for method in random.Random(number).sample(methods, len(methods)):  # none always runs behind the same other
            if (method.name, prompt_id) in done:
                continue
            starting(method.name, number)
            gc.collect()  # or a run pays for what the one before it left
            synchronise(model)
            began = time.perf_counter()
            result = method.run(ids, prompt_seed(seed, ids))
            synchronise(model)
            seconds, rounds = time.perf_counter() - began, result.rounds
            yield Sample(
                method.name,
                prompt_id,
                task,
                result.token_ids,
                seconds,
                result.prefill_seconds,
                draft_seconds=sum(r.draft_seconds for r in rounds),
                decision_seconds=sum(r.decision_seconds for r in rounds),
                verify_seconds=sum(r.verify_seconds for r in rounds),
                choose_seconds=sum(r.choose_seconds for r in rounds),
                exits=tuple(r.exit_layer for r in rounds),
                drafts=tuple(len(r.drafts) for r in rounds),
                accepts=tuple(r.accepted for r in rounds),
                commits=tuple(len(r.committed) for r in rounds),
                text=result.text,
            )
