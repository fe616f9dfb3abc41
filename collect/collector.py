"""The collector: the decoder with an exploring rule and a recorder, so that what is logged is what serving will see."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lede import replay
from lede.collect import record
from lede.collect.errors import PromptError
from lede.collect.explore import Epsilon, Exploration, Exploring, Noisy, Uniform
from lede.collect.prompts import Prompt
from lede.collect.sweep import sweep
from lede.decode.device import device_facts
from lede.decode.facts import model_facts
from lede.decode.generate import encode, generate
from lede.decode.load import check_layers
from lede.decode.model import Model
from lede.decode.round import Generation
from lede.decode.rules import ValueFunction
from lede.decode.sampling import Settings
from lede.decode.state import TOP_K, TRACE
from lede.replay.shards import Shard, claim
from lede.replay.split import fingerprint, stable_hash
from lede.replay.writer import EpisodeWriter, Run
from lede.simulate.profile import measure


@dataclass(frozen=True)
class CollectConfig:
    """What decides the rows of a run: the same values give the same rows, and name the same run."""

    episodes: int = 200
    layers: tuple[int, ...] | None = None  # candidates; None: `default_layers` of the model, or the policy's
    explore: Exploration = "uniform"
    epsilon: float = 0.2  # of `explore="epsilon"`
    max_drafts: int | None = None  # a round; None: as many as there are costs for, the paper's 12, or the policy's
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    sweep: bool = False


class Got(NamedTuple):
    """What one episode added."""

    number: int
    episodes: int = 0
    decisions: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0


@dataclass
class Collected:
    """Where a collection stands, and what it took."""

    planned: int
    resumed: int  # episodes that were there before
    episodes: int = 0
    decisions: int = 0
    tokens: int = 0
    skipped: int = 0  # prompts that do not fit the model's context
    seconds: float = 0.0  # of decoding

    def add(self, got: Got) -> None:
        """Count an episode in."""
        for name in ("episodes", "decisions", "tokens", "seconds", "skipped"):
            setattr(self, name, getattr(self, name) + getattr(got, name))


class Talk(NamedTuple):
    """A conversation, and which of its episodes are wanted."""

    prompt: int  # index
    first: int  # episode
    wanted: list[int]


@dataclass(frozen=True)
class Plan:
    """A started run and this shard of its episodes: all that a worker needs beside a model, and cheap to pickle."""

    run: Run
    prompts: Sequence[Prompt]
    config: CollectConfig
    layers: tuple[int, ...]
    shard: Shard = (0, 1)

    def talks(self) -> Iterator[Talk]:
        """Its conversations: the turns of one belong together, so they go to one shard and one worker."""
        first, (share, shares) = 0, self.shard
        for index in count():
            prompt = index % len(self.prompts)
            end = min(first + 1 + len(self.prompts[prompt].turns), self.config.episodes)
            if first >= end:
                return
            if index % shares == share:  # so whatever the number of episodes, which may be raised
                yield Talk(prompt, first, [*range(first, end)])
            first = end


def collect(
    model: Model,
    prompts: Sequence[Prompt],
    out: Path,
    config: CollectConfig,
    policy: ValueFunction | None = None,
    source: dict[str, Any] | None = None,
    new_run: bool = False,
    progress: Callable[[Collected], None] = lambda collected: None,
    shard: Shard = (0, 1),
) -> Collected:
    """Collect the episodes of `config` that `out` does not hold yet; prompts are used in order, again and again.

    `source` describes prompts and policy for the run's file; it belongs to what a resumed run must agree on. Every turn
    of a conversation is an episode, whose prompt is all that was said before, the model's own answers included. `shard`
    (i, n) takes the i-th of every n conversations; other processes may take the others at the same time. Raises
    DatasetError where `out` is another model's dataset or was collected with other arguments, ModelError for candidate
    layers that the model does not have, PromptError without prompts.
    """
    plan = start(model, prompts, out, config, policy, source, new_run, shard)
    return execute(plan, model, policy, lambda got, collected: progress(collected))


def execute(
    plan: Plan, model: Model, policy: ValueFunction | None, report: Callable[[Got, Collected], None]
) -> Collected:
    """Collect what is outstanding of a plan. Raises DatasetError where another process does."""
    with claim(plan.run, plan.shard), replay.EpisodeWriter(plan.run, plan.shard[0]) as writer:
        todo, collected = outstanding(plan)
        for talk in todo:
            for got in decode(plan, talk, model, policy, writer):
                collected.add(got)
                report(got, collected)
    return collected


def start(
    model: Model,
    prompts: Sequence[Prompt],
    out: Path,
    config: CollectConfig,
    policy: ValueFunction | None = None,
    source: dict[str, Any] | None = None,
    new_run: bool = False,
    shard: Shard = (0, 1),
) -> Plan:
    """Start or resume the run, for `execute` or `workers.execute`; costs are measured where it is new."""
    if not prompts:
        raise PromptError("there are no prompts to collect from")
    if policy is not None and config.explore == "epsilon":
        layers = tuple(layer for layer in policy.layers if layer != model.layer_count)  # the bypass is no candidate
    else:
        heads = model.exits.layers if model.exits else ()
        layers = config.layers or default_layers(model.layer_count, config.explore, heads)
    layers = check_layers(layers, model.layer_count)
    limit = explorer(config, layers, 0, policy).max_drafts
    replay.open_for_writing(out, header(model, layers), model.draft_vocabulary)
    decided = {"layers": list(layers), "max_drafts": limit, "dtype": str(model.dtype).removeprefix("torch.")}
    arguments = asdict(config) | decided | (source or {})
    # more episodes continue a run: the ones that are there stay what they are
    arguments.pop("episodes")
    run = replay.start_run(out, arguments, lambda: facts_of(model, config), new_run=new_run)
    return Plan(run, prompts, config, layers, shard)


def outstanding(plan: Plan) -> tuple[list[Talk], Collected]:
    """What is not committed yet. Whoever asks holds a claim: nobody else adds to it."""
    done, talks = plan.run.committed(), [*plan.talks()]
    left = [talk._replace(wanted=[number for number in talk.wanted if number not in done]) for talk in talks]
    planned, open_ = (sum(len(talk.wanted) for talk in some) for some in (talks, left))
    return [talk for talk in left if talk.wanted], Collected(planned, planned - open_)


def decode(
    plan: Plan,
    talk: Talk,
    model: Model,
    policy: ValueFunction | None,
    writer: EpisodeWriter,
) -> Iterator[Got]:
    """Decode the wanted episodes of a conversation, and those before them for what is said to them; write and count."""
    config, wanted = plan.config, talk.wanted
    said: list[str] = []  # the model's answers so far
    for number in range(talk.first, wanted[-1] + 1):
        prompt = plan.prompts[talk.prompt].turn(said)
        said = [*said, ""]
        ids = encode(model, prompt.content)
        if len(ids) >= model.context:
            if number in wanted:
                yield Got(number, skipped=1)
            continue
        seed = stable_hash(f"{config.seed}/{number}/{prompt.id}")  # the same whichever worker decodes it
        settings = Settings(config.max_new_tokens, config.temperature, seed=seed % 2**63)
        generation = generate(model, ids, explorer(config, plan.layers, seed, policy), settings)
        said[-1] = generation.text
        if number not in wanted:  # decoded again only for what is said to it
            continue
        swept = None
        if config.sweep and config.temperature == 0:
            swept = sweep(model, plan.layers, number, generation.prompt_ids, generation.token_ids)
        rows = record.transitions(number, generation.rounds)
        writer.add(episode_row(number, prompt, generation, seed), rows, swept)
        yield Got(number, 1, len(rows["step"]), len(generation.token_ids), generation.seconds)


def describe_source(
    prompts: Sequence[Prompt], policy: ValueFunction | None = None, split: str = "all"
) -> dict[str, Any]:
    """Fingerprints of the prompts and of the policy explored around: what a resumed run must share with its start."""
    text = "\0".join(f"{p.id}\0{p.text}\0{p.tokens}" + f"\0{p.messages}{p.turns}" * bool(p.messages) for p in prompts)
    described: dict[str, Any] = {"split": split, "prompts": fingerprint(text)}
    if policy is not None:
        probe = np.linspace(-1, 1, len(policy.features), dtype=np.float32)
        described["policy"] = fingerprint(b"".join(policy.values(probe * x).tobytes() for x in (0.5, 1.0, 4.0)))
    return described


def default_layers(layer_count: int, explore: Exploration = "uniform", heads: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Prompt lookup and the layers with exit heads; else three around a quarter of the depth, 3, 4 and 6 of 16.

    Without the lookup for the paper's exploration: the paper has none.
    """
    exits = {*heads} or {max(layer_count * sixteenths // 16, 1) for sixteenths in (3, 4, 6)}
    return tuple(sorted(exits if explore == "noisy" else {0, *exits}))


def explorer(config: CollectConfig, layers: tuple[int, ...], seed: int, policy: ValueFunction | None) -> Exploring:
    """The exploring rule of one episode."""
    rule: Exploring = Noisy(layers, seed) if config.explore == "noisy" else Uniform(layers, seed)
    if config.explore == "epsilon":
        if policy is None:
            raise PromptError("--explore epsilon explores around a policy: name it with --policy")
        rule = Epsilon(policy, seed, config.epsilon)
    rule.max_drafts = config.max_drafts or rule.max_drafts
    return rule


def episode_row(number: int, prompt: Prompt, generation: Generation, seed: int) -> dict[str, Any]:
    """The row of the episodes table."""
    row = {"episode": number, "prompt_id": prompt.id, "seed": seed, "rounds": len(generation.rounds)}
    row |= {"prompt_tokens": list(generation.prompt_ids), "output_tokens": list(generation.token_ids)}
    row |= {name: getattr(prompt, name) for name in ("task", "split", "group")}
    return row | {name: getattr(generation, name) for name in ("drafted", "accepted", "seconds", "finish")}


def header(model: Model, layers: tuple[int, ...]) -> dict[str, Any]:
    """What every run of one dataset shares (`dataset.json`)."""
    tokenizer = model.tokenizer
    vocabulary = sorted(tokenizer.get_vocab().items()) if tokenizer is not None else []
    facts = {"model": model_facts(model), "tokenizer_hash": fingerprint(repr(vocabulary))}
    return facts | {"layers": list(layers), "top_k": TOP_K, "trace": TRACE}


def facts_of(model: Model, config: CollectConfig) -> dict[str, Any]:
    """What a run was collected with; costs are measured now, on this device."""
    versions = {package: version(package) for package in ("lede", "torch", "transformers", "pyarrow")}
    behaviour = {"explore": config.explore, "epsilon": config.epsilon}
    costs = measure(model).to_json()
    return {"versions": versions, "device": device_facts(model), "behaviour": behaviour, "costs": costs}
