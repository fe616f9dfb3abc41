"""Sweeps as arrays: what every candidate layer would have drafted at every position of finished texts.

A text, greedy or sampled with a seed, does not depend on the exit rule, so these arrays answer what any rule would have
seen and what would have been accepted: `simulate.batched` scores networks on them, `simulate.scalar` any rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.process import Measured, Sums
from lede.replay.errors import DatasetError
from lede.replay.reader import Dataset
from lede.replay.schema import SWEPT
from lede.simulate.rollouts import Copies, Seeds, copies_of, guesses_of

#: What Copies.states has, in its order.
COPIED = slice(SWEPT.index("lookup_length"), SWEPT.index("noise") + 1)
TEMPERATURE = SWEPT.index("temperature")
#: What is counted of each text.
COUNTS = ("tokens", "rounds", "drafting", "depth", "drafted", "accepted")


@dataclass(frozen=True, eq=False)
class Texts:
    """N texts of up to T tokens with C candidate layers; what lies behind a text's end is not looked at.

    states: (N, T, C, 12) the swept state columns; found: (N, T, C), false where the lookup had no guess; right:
    (N, T, C), whether the layer would have drafted the token that was committed; drafts: (N, T, C) that layer's token,
    -1 where it has none; targets: (N, T) the tokens committed; lengths: (N,); prompt_lengths: (N,) tokens before the
    first. limits: (N,) tokens that there was room for, more than the length where a stop ended the text. copies: what
    layer 0 drafts behind its wrong drafts. stops: end of text tokens, at which drafting stops. numbers: (N,) their
    episodes', as in `Columns.episodes`. temperatures: (N,), 0 for greedy texts (None: all are). seeds: (N,) of the
    sampled ones' noise.
    """

    layers: tuple[int, ...]
    states: NDArray[np.float32]
    found: NDArray[np.bool_]
    right: NDArray[np.bool_]
    drafts: NDArray[np.int32]
    targets: NDArray[np.int32]
    lengths: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    limits: NDArray[np.int64]
    copies: Copies
    stops: frozenset[int] = frozenset()
    numbers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    temperatures: NDArray[np.float32] = None  # type: ignore[assignment]  # an array behind __post_init__
    seeds: NDArray[np.uint64] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name, kind in (("temperatures", np.float32), ("seeds", np.uint64)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.zeros(len(self.lengths), kind))


@dataclass(frozen=True)
class Totals(Measured):
    """What was done to N texts, as every engine and the oracle say it; arrays are (N,).

    milliseconds: reading prompts not included. tokens; rounds; drafting: rounds with drafts; depth: sum of their exit
    layers; drafted: sum of their drafts; accepted: of those, committed.
    """

    milliseconds: NDArray[np.float64]
    tokens: NDArray[Any]
    rounds: NDArray[Any]
    drafting: NDArray[Any]
    depth: NDArray[Any]
    drafted: NDArray[Any]
    accepted: NDArray[Any]

    @property
    def sums(self) -> Sums:
        """See `Measured`; of all texts."""
        counts = {name: float(getattr(self, name).sum()) for name in COUNTS}
        return Sums(**counts, seconds=float(self.milliseconds.sum()) / 1e3)

    @property
    def rate(self) -> float:
        """Tokens per millisecond over all texts."""
        return float(self.tokens.sum() / self.milliseconds.sum())


def read_texts(dataset: Dataset, episodes: NDArray[np.int64], layers: tuple[int, ...] | None = None) -> Texts:
    """The sweeps of these episodes (numbered as in `Columns.episodes`), of those of them that were swept.

    layers: candidates, some of the dataset's; layer 0 may be among them in any case, because what the lookup drafts is
    a function of the tokens. None: the dataset's. A dataset does not say which tokens end a text: each text's own
    length is taken for its limit. Raises DatasetError for a layer that was not swept.
    """
    layers = layers or dataset.layers
    if missing := sorted({*layers} - {0, *dataset.layers}):
        raise DatasetError(
            f"{dataset.path} has nothing of layer {', '.join(map(str, missing))}: its candidates are "
            f"{', '.join(map(str, dataset.layers))} (and 0, which needs only the tokens)"
        )
    names = ("position", "layer", *SWEPT, "draft_token", "target_token")
    rows, episode = dataset.read("sweeps", names)
    wanted = np.isin(episode, episodes)
    numbers, text = np.unique(episode[wanted], return_inverse=True)
    columns = {name: rows[name].to_numpy()[wanted] for name in names}
    prompts, seeds = (_told(dataset, numbers, name) for name in ("prompt_tokens", "seed"))
    swept = tuple(sorted({*dataset.layers, *layers}))
    texts = replace(_arrange(columns, text, prompts, swept, seeds), numbers=numbers)
    at = [texts.layers.index(layer) for layer in layers]
    by_layer = {name: getattr(texts, name)[:, :, at] for name in ("states", "found", "right", "drafts")}
    return replace(texts, layers=layers, **by_layer)


def prompts_of(dataset: Dataset, numbers: NDArray[np.int64]) -> list[list[int]]:
    """Prompt tokens of these episodes. Raises DatasetError if any is not in the episodes table."""
    return _told(dataset, numbers, "prompt_tokens")


def _told(dataset: Dataset, numbers: NDArray[np.int64], column: str) -> list[Any]:
    """What the episodes table says of these episodes. Raises DatasetError if any is not in it."""
    rows, episodes = replace(dataset, window=(0, 1)).read("episodes", [column])
    here = np.isin(episodes, numbers)
    known = dict(zip(episodes[here].tolist(), rows[column].filter(here).to_pylist(), strict=True))
    missing = sum(episode not in known for episode in numbers.tolist())
    if missing:
        raise DatasetError(
            f"{dataset.path} has lost the prompts of {missing} episodes, which tell what layer 0 copies: restore its "
            "episodes table from a copy, or collect again with the same arguments"
        )
    return [known[episode] for episode in numbers.tolist()]


def texts_of(
    sweeps: Sequence[Mapping[str, Sequence[Any]]],
    prompts: Sequence[Sequence[int]],
    layers: tuple[int, ...],
    limits: Sequence[int] | None = None,
    stops: frozenset[int] = frozenset(),
    seeds: Sequence[int] | None = None,
) -> Texts:
    """From columns as `collect.sweep.sweep` returns them, one mapping a text; `layers` are those swept, ascending.

    One of them must be real: layer 0 alone does not have every position. prompts: the tokens before each text. limits:
    by default the texts' own lengths. seeds: of the noise, where texts are sampled.
    """
    text = np.repeat(np.arange(len(sweeps)), [len(columns["layer"]) for columns in sweeps])
    names = ("position", "layer", *SWEPT, "draft_token", "target_token")
    columns = {name: np.concatenate([np.asarray(one[name]) for one in sweeps]) for name in names}
    return _arrange(columns, text, prompts, layers, seeds or [0] * len(prompts), limits, stops)


def _arrange(
    rows: Mapping[str, NDArray[Any]],
    text: NDArray[np.int64],
    prompts: Sequence[Sequence[int]],
    layers: tuple[int, ...],
    seeds: Sequence[int],
    limits: Sequence[int] | None = None,
    stops: frozenset[int] = frozenset(),
) -> Texts:
    """Rows of sweeps, and the number of each row's text, as arrays. Without rows, layer 0 is told from the tokens."""
    prompt_lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    at = rows["position"].astype(np.int64) - prompt_lengths[text]
    lengths = np.zeros(len(prompt_lengths), np.int64)
    np.maximum.at(lengths, text, at + 1)
    column = np.searchsorted(layers, rows["layer"])
    shape = (len(lengths), int(lengths.max(initial=0)), len(layers))
    states = np.zeros((*shape, len(SWEPT)), np.float32)
    states[text, at, column] = np.stack([rows[name] for name in SWEPT], 1)
    found, right = np.zeros(shape, bool), np.zeros(shape, bool)
    found[text, at, column] = True
    right[text, at, column] = rows["draft_token"] == rows["target_token"]
    drafts, targets = np.full(shape, -1, np.int32), np.full(shape[:2], -1, np.int32)
    drafts[text, at, column] = rows["draft_token"]
    targets[text, at] = rows["target_token"]
    temperatures = np.zeros(len(lengths), np.float32)
    temperatures[text] = rows["temperature"]
    states[..., TEMPERATURE] = temperatures[:, None, None]  # also where a copy alone is: layer 0 has no row there
    noise = Seeds(np.array(seeds, np.uint64), temperatures > 0)
    if layers[0] == 0 and not found[:, :, 0].any():
        drafts[:, :, 0], states[:, :, 0, COPIED] = guesses_of(prompts, targets, lengths, noise)
        trace = SWEPT.index("conf_trace")
        states[:, :, 0, trace] = states[:, :, -1, trace]
        found[:, :, 0] = drafts[:, :, 0] >= 0
        right[:, :, 0] = found[:, :, 0] & (drafts[:, :, 0] == targets)
    room = lengths if limits is None else np.asarray(limits, np.int64)
    guesses = drafts[:, :, 0] if layers[0] == 0 else np.full_like(targets, -1)
    copies = copies_of(prompts, targets, lengths, guesses, noise)
    arrays = states, found, right, drafts, targets, lengths, prompt_lengths, room
    return Texts(layers, *arrays, copies, stops, temperatures=temperatures, seeds=noise.seeds)
