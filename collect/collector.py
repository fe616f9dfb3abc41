"""The collector: the decoder with an exploring rule and a recorder, so that what is logged is what serving will see.

One process writes a run (or a shard of it); decoding may be anywhere: an `Engine` is a model in this process, several
processes (`workers`) or a Ray cluster (`cluster`).
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lede import replay
from lede.collect import record
from lede.collect.config import CollectConfig, Exploration
from lede.collect.errors import PromptError
from lede.collect.explore import Epsilon, Exploring, Noisy, Uniform
from lede.collect.prompts import Prompt
from lede.collect.sweep import sweep
from lede.decode.device import device_facts
from lede.decode.facts import model_facts
from lede.decode.generate import encode, generate
from lede.decode.generation_config import request
from lede.decode.load import check_layers
from lede.decode.model import Model
from lede.decode.round import Generation
from lede.decode.sampling import Settings, sampling_columns
from lede.ground import fingerprint, stable_hash
from lede.policy import Policy
from lede.process import TOP_K, TRACE
from lede.replay.runs import Run, Shard, claim
from lede.replay.writer import EpisodeWriter
from lede.simulate.profile import measure


class Episode(NamedTuple):
    """A decoded episode, with its rows in the tables episodes, transitions and sweeps; None: its prompt is too long."""

    number: int
    rows: tuple[dict[str, Any], dict[str, list[Any]], dict[str, list[Any]] | None] | None


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

    def add(self, episode: Episode) -> None:
        """Count an episode in."""
        if episode.rows is None:
            self.skipped += 1
            return
        about, transitions, _ = episode.rows
        self.episodes += 1
        self.decisions += len(transitions["step"])
        self.tokens += len(about["output_tokens"])
        self.seconds += about["seconds"]


class Talk(NamedTuple):
    """A conversation, and which of its episodes are wanted. Its turns belong together: one worker decodes them."""

    prompt: Prompt
    first: int  # episode
    wanted: tuple[int, ...]


class Behaviour(NamedTuple):
    """How a run explores: all that decoding needs beside a model and a conversation, and cheap to pickle."""

    config: CollectConfig
    layers: tuple[int, ...]
    policy: Policy | None

    def rule(self, seed: int) -> Exploring:
        """The exploring rule of one episode."""
        config, policy = self.config, self.policy
        rule: Exploring = Noisy(self.layers, seed) if config.explore == "noisy" else Uniform(self.layers, seed)
        if config.explore == "epsilon":
            if policy is None:
                raise PromptError("--explore epsilon explores around a policy: name it with --policy")
            rule = Epsilon(policy, seed, config.epsilon)
        rule.max_drafts = config.max_drafts or rule.max_drafts
        return rule


class About(NamedTuple):
    """What must be known of a model before a run of it starts."""

    layers: int
    exits: tuple[int, ...]  # with heads
    dtype: str
    header: dict[str, Any]  # of its datasets, without candidates
    draft_vocabulary: Sequence[int] | None


class Engine(Protocol):
    """What decodes: a model in this process, or others elsewhere."""

    def about(self) -> About:
        """See `About`."""

    def facts(self) -> dict[str, Any]:
        """See `facts_of`."""

    def decode(self, behaviour: Behaviour, talks: Sequence[Talk]) -> Generator[Episode]:
        """Every wanted episode of the conversations once, in any order."""


@dataclass(frozen=True)
class Here:
    """The engine of one model in this process."""

    model: Model

    def about(self) -> About:
        """See `Engine`."""
        model = self.model
        exits = model.exits.layers if model.exits else ()
        dtype = str(model.dtype).removeprefix("torch.")
        return About(model.layer_count, exits, dtype, header(model, ()), model.draft_vocabulary)

    def facts(self) -> dict[str, Any]:
        """See `Engine`."""
        return facts_of(self.model)

    def decode(self, behaviour: Behaviour, talks: Sequence[Talk]) -> Generator[Episode]:
        """See `Engine`; in order."""
        for talk in talks:
            yield from decode(self.model, behaviour, talk)


def collect(
    model: Model | Engine,
    prompts: Sequence[Prompt],
    out: Path,
    config: CollectConfig,
    policy: Policy | None = None,
    source: dict[str, Any] | None = None,
    new_run: bool = False,
    progress: Callable[[Collected], None] = lambda collected: None,
    shard: Shard = (0, 1),
) -> Collected:
    """Collect the episodes of `config` that `out` does not hold yet; prompts are used in order, again and again.

    `source` describes prompts and policy for the run's file; it belongs to what a resumed run must agree on. Every turn
    of a conversation is an episode, whose prompt is all that was said before, the model's own answers included. `shard`
    (i, n) takes the i-th of every n conversations; other processes may take the others at the same time. Whatever the
    engine, this process is the one that writes. Raises DatasetError where `out` is another model's dataset, was
    collected with other arguments, or somebody collects the same, ModelError for candidate layers that the model does
    not have, PromptError without prompts; and what the engine raises.
    """
    if not prompts:
        raise PromptError("there are no prompts to collect from")
    engine = Here(model) if isinstance(model, Model) else model
    run, behaviour = start(engine, out, config, policy, source or {}, new_run)
    with claim(run, shard), EpisodeWriter(run, shard[0]) as writer:
        todo, collected = outstanding(run, [*conversations(prompts, config.episodes, shard)])
        with closing(engine.decode(behaviour, todo)) as episodes:
            for episode in episodes:
                if episode.rows is not None:
                    writer.add(*episode.rows)
                collected.add(episode)
                progress(collected)
    return collected


def start(
    engine: Engine,
    out: Path,
    config: CollectConfig,
    policy: Policy | None,
    source: dict[str, Any],
    new_run: bool,
) -> tuple[Run, Behaviour]:
    """Start or resume the run; costs are measured where it is new."""
    about = engine.about()
    if policy is not None and config.explore == "epsilon":
        layers = tuple(layer for layer in policy.layers if layer != about.layers)  # the bypass is no candidate
    else:
        layers = config.layers or default_layers(about.layers, config.explore, about.exits)
    layers = check_layers(layers, about.layers)
    behaviour = Behaviour(config, layers, policy)
    replay.open_for_writing(out, about.header | {"layers": list(layers)}, about.draft_vocabulary)
    decided = {"layers": list(layers), "max_drafts": behaviour.rule(0).max_drafts, "dtype": about.dtype}
    arguments = asdict(config) | decided | source
    # more episodes continue a run: the ones that are there stay what they are
    arguments.pop("episodes")
    explored = {"behaviour": {"explore": config.explore, "epsilon": config.epsilon}}
    return replay.start_run(out, arguments, lambda: engine.facts() | explored, new_run=new_run), behaviour


def conversations(prompts: Sequence[Prompt], episodes: int, shard: Shard = (0, 1)) -> Iterator[Talk]:
    """A shard's share of so many episodes."""
    first, (share, shares) = 0, shard
    for index in count():
        prompt = prompts[index % len(prompts)]
        end = min(first + 1 + len(prompt.turns), episodes)
        if first >= end:
            return
        if index % shares == share:  # so whatever the number of episodes, which may be raised
            yield Talk(prompt, first, tuple(range(first, end)))
        first = end


def outstanding(run: Run, talks: Sequence[Talk]) -> tuple[list[Talk], Collected]:
    """What is not committed yet. Whoever asks holds a claim: nobody else adds to it."""
    done = run.committed()
    left = [talk._replace(wanted=tuple(number for number in talk.wanted if number not in done)) for talk in talks]
    planned, open_ = (sum(len(talk.wanted) for talk in some) for some in (talks, left))
    return [talk for talk in left if talk.wanted], Collected(planned, planned - open_)


def decode(model: Model, behaviour: Behaviour, talk: Talk) -> Iterator[Episode]:
    """Decode the wanted episodes of a conversation, and those before them for what is said to them."""
    config = behaviour.config
    said: list[str] = []  # the model's answers so far
    for number in range(talk.first, talk.wanted[-1] + 1):
        prompt = talk.prompt.turn(said)
        said = [*said, ""]
        ids = encode(model, prompt.content)
        if len(ids) >= model.context:
            if number in talk.wanted:
                yield Episode(number, None)
            continue
        seed = stable_hash(f"{config.seed}/{number}/{prompt.id}")  # the same whichever worker decodes it
        settings = settings_of(model, config, prompt, len(ids), seed)
        generation = generate(model, ids, behaviour.rule(seed), settings)
        said[-1] = generation.text
        if number not in talk.wanted:  # decoded again only for what is said to it
            continue
        swept = None
        if config.sweep:
            swept = sweep(model, behaviour.layers, number, generation.prompt_ids, generation.token_ids, settings)
        rows = record.transitions(number, generation.rounds)
        yield Episode(number, (episode_row(number, prompt, generation, settings, seed), rows, swept))


def settings_of(model: Model, config: CollectConfig, prompt: Prompt, length: int, seed: int) -> Settings:
    """How the text behind a prompt of `length` tokens is decoded: as `lede generate` would.

    A prompt that was served may have settings and a seed of its own.
    """
    given: dict[str, Any] = {"temperature": config.temperature or 0.0, "top_k": config.top_k, "top_p": config.top_p}
    if prompt.sampling is not None and config.temperature is None:
        given, seed = dict(prompt.sampling.options), prompt.sampling.seed
    given["max_new_tokens"] = config.max_new_tokens
    return request(model, length, {name: value for name, value in given.items() if value is not None}, seed)


def describe_source(prompts: Sequence[Prompt], policy: Policy | None = None, split: str = "all") -> dict[str, Any]:
    """Fingerprints of the prompts and of the policy explored around: what a resumed run must share with its start."""
    texts = []
    for prompt in prompts:
        texts += [prompt.id, prompt.text, str(prompt.tokens)]
        if prompt.messages:
            texts.append(f"{prompt.messages}{prompt.turns}")
    described: dict[str, Any] = {"split": split, "prompts": fingerprint("\0".join(texts))}
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


def episode_row(
    number: int, prompt: Prompt, generation: Generation, settings: Settings, seed: int = 0
) -> dict[str, Any]:
    """The row of the episodes table. seed: of a greedy text's exploration; a sampled one has its noise's."""
    seed = seed if generation.seed is None else generation.seed
    row = {"episode": number, "prompt_id": prompt.id, "seed": seed}
    row |= sampling_columns(settings)
    row |= {"prompt_tokens": list(generation.prompt_ids), "output_tokens": list(generation.token_ids)}
    row |= {name: getattr(prompt, name) for name in ("task", "split", "group")}
    row |= {name: getattr(generation.sums, name) for name in ("rounds", "drafted", "accepted", "seconds")}
    return row | {"finish": generation.finish}


def header(model: Model, layers: tuple[int, ...]) -> dict[str, Any]:
    """What every run of one dataset shares (`dataset.json`)."""
    tokenizer = model.tokenizer
    vocabulary = sorted(tokenizer.get_vocab().items()) if tokenizer is not None else []
    facts = {"model": model_facts(model), "tokenizer_hash": fingerprint(repr(vocabulary))}
    return facts | {"layers": list(layers), "top_k": TOP_K, "trace": TRACE}


def facts_of(model: Model) -> dict[str, Any]:
    """What a run is collected with; costs are measured now, on this device."""
    versions = {package: version(package) for package in ("lede", "torch", "transformers", "pyarrow")}
    return {"versions": versions, "device": device_facts(model.device), "costs": measure(model).to_json()}
