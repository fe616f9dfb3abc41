"""Transitions drawn from sweeps, as uniform exploration would have logged them, written as an ordinary dataset.

A sweep holds every candidate's draft at every position, so other candidates and longer rounds can be explored on the
same texts without a model. As in exact replay, behind a round's first wrong draft a real layer's states are those of
the true text. The run's `runs/<id>.json` says `"simulated": true`.
"""

import os
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lede.replay.errors import DatasetError
from lede.replay.reader import Dataset
from lede.replay.schema import DRAFT, EPISODES, EXIT, STATE, WALK
from lede.replay.split import episode_splits
from lede.replay.writer import EpisodeWriter, open_for_writing, start_run
from lede.simulate.batched import LONGEST, Engine, Rounds, Starts
from lede.simulate.costs import MAX_ROWS, Costs, dataset_costs
from lede.simulate.texts import Texts, read_texts

DRAFT_CHANCE = 0.85  # of drafting on: rounds must be long enough for their ends to be seen


def explored(
    texts: Texts, model_layers: int, max_drafts: int = LONGEST, seed: int = 0
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """Decisions on N texts: the number of each row's text (R,), and columns of the transitions table but `episode`.

    Each round leaves its walk at every candidate equally often and drafts on with `DRAFT_CHANCE`.
    """
    free = Costs(model_layers, (0.0,) * MAX_ROWS, (0.0,) * MAX_ROWS, 0.0, 0.0, 0.0, 0.0)
    engine = Engine(texts, free, STATE, max_drafts=max_drafts)
    generator = torch.Generator().manual_seed(seed)
    logged: list[dict[str, Tensor]] = []

    def choose(starts: Starts, rounds: Rounds) -> Tensor:
        candidates = rounds.rows.shape[1]
        chance = torch.full(rounds.rows.shape[:3], DRAFT_CHANCE)
        chance[:, :, 0] = 1 / torch.arange(candidates, 0, -1)
        exits = torch.rand(chance.shape, generator=generator) < chance
        forced = ~rounds.possible.all(-1)
        exits = torch.where(forced, rounds.possible[..., EXIT], exits)
        visited = rounds.visited(exits)
        b, c, k = torch.nonzero(visited, as_tuple=True)
        text, position, most = starts.text[b], starts.position[b], rounds.most[b]
        at, out = position + k, exits[b, c, k]
        last = torch.diff(b, append=torch.tensor([-1])) != 0
        alone = (k == 0) & (most == 1)  # its tokens count the verifier's own
        logged.append(
            {
                "text": text,
                "round": torch.full_like(b, len(logged)),
                "chain": k,
                "step": torch.arange(len(b)) - torch.searchsorted(b, b),
                "position": torch.from_numpy(texts.prompt_lengths)[text] + at,
                "phase": torch.where(k > 0, DRAFT, WALK),
                "layer": torch.tensor(texts.layers)[c],
                "draft_index": k + 1,
                "forced": forced[b, c, k],
                **{name: rounds.rows[b, c, k, i] for i, name in enumerate(STATE)},
                "action": out.long(),
                "propensity": torch.where(forced[b, c, k], 1.0, torch.where(out, chance[b, c, k], 1 - chance[b, c, k])),
                "terminal": last & ((k + 1 < most) | (most == max_drafts)),
                "truncated": last & (k + 1 == most) & (most < max_drafts),  # by the text's end, not by the rule
                "draft_token": _drafted(texts, engine, text, position, c, k),
                "target_token": torch.from_numpy(texts.targets[text, np.minimum(at.numpy(), texts.lengths[text] - 1)]),
                "accepted": rounds.tokens[b, c, k, EXIT] > alone.double(),
            }
        )
        return exits

    engine.rollout(choose)
    columns = {name: torch.cat([part[name] for part in logged]).numpy() for name in logged[0]}
    order = np.argsort(columns["text"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    return columns.pop("text"), columns


def _drafted(texts: Texts, engine: Engine, text: Tensor, start: Tensor, c: Tensor, k: Tensor) -> Tensor:
    """What each decision's layer drafts: behind a wrong draft of layer 0, what it copies there."""
    tokens = texts.drafts[text, start + k, c]
    good = engine.runs[text, start, c]
    wrong = torch.minimum(start + good, torch.from_numpy(texts.lengths)[text] - 1)
    astray = (torch.tensor(texts.layers)[c] == 0) & (k > good)
    number = texts.copies.number[text[astray], wrong[astray]]
    tokens[astray] = texts.copies.tokens[number, (k - good)[astray] - 1]
    return torch.from_numpy(tokens)


def write_transitions(
    dataset: Dataset,
    out: str | os.PathLike[str],
    layers: tuple[int, ...] | None = None,
    max_drafts: int = LONGEST,
    seed: int = 0,
) -> int:
    """Write a dataset of explored transitions on the swept texts of another, with its episodes; the number of rows.

    layers: candidates, by default the dataset's; layer 0 may be added. Raises DatasetError where nothing was swept or
    `out` holds other data.
    """
    texts = read_texts(dataset, episode_splits(dataset).numbers, layers)
    if not len(texts.lengths):
        raise DatasetError(
            f"{dataset.path} has no sweeps to draw transitions from: collect greedily, without --no-sweep"
        )
    header = {name: value for name, value in dataset.header.items() if name != "format"}
    open_for_writing(out, header | {"layers": list(texts.layers)})
    source = {"name": dataset.path.resolve().name, "runs": [run["id"] for run in dataset.runs]}
    arguments = {"simulated_from": source, "max_drafts": max_drafts, "seed": seed}
    behaviour = {"kind": "uniform", "draft_chance": DRAFT_CHANCE}
    facts = {"simulated": True, "versions": {}, "device": {}, "behaviour": behaviour, "costs": None}
    with suppress(DatasetError):
        facts["costs"] = dataset_costs(dataset)[0].to_json()
    run = start_run(out, arguments, facts)
    text, columns = explored(texts, dataset.model_layers, max_drafts, seed)
    table, numbers = dataset.read("episodes", EPISODES.names[1:])  # all but the number
    known = dict(zip(numbers.tolist(), table.to_pylist(), strict=True))
    done = run.committed()
    with EpisodeWriter(run) as writer:
        for number in range(len(texts.lengths)):
            here = text == number
            if number in done or not here.any():
                continue
            rows = {name: values[here] for name, values in columns.items()}
            right = rows["accepted"][(rows["phase"] == DRAFT) | (rows["action"] == EXIT)]
            episode = known[int(texts.numbers[number])] | {
                "episode": number,
                "rounds": int(rows["round"].max()) + 1,
                "drafted": len(right),
                "accepted": int(right.sum()),
                "seconds": 0.0,
            }
            writer.add(episode, rows | {"episode": np.full(here.sum(), number)})
    return len(text)
