"""Transitions drawn from sweeps, as uniform exploration would have logged them, written as an ordinary dataset.

A sweep holds every candidate's draft at every position, so other candidates and longer rounds can be explored on the
same texts without a model. As in exact replay, behind a round's first wrong draft a real layer's states are those of
the true text. The run's `runs/<id>.json` says `"simulated": true`.
"""

import os
from contextlib import suppress

from lede.collect.explore import DRAFT_CHANCE, Uniform
from lede.collect.record import transitions
from lede.decode.rules import LONG_DRAFTS
from lede.replay.errors import DatasetError
from lede.replay.reader import Dataset
from lede.replay.schema import EPISODES
from lede.replay.split import episode_splits, stable_hash
from lede.replay.writer import EpisodeWriter, open_for_writing, start_run
from lede.simulate.costs import MAX_ROWS, Costs, dataset_costs
from lede.simulate.scalar import Record
from lede.simulate.texts import read_texts


def write_transitions(
    dataset: Dataset,
    out: str | os.PathLike[str],
    layers: tuple[int, ...] | None = None,
    max_drafts: int = LONG_DRAFTS,
    seed: int = 0,
) -> int:
    """Write a dataset of explored transitions on the swept texts of another, with its episodes; the number of rows.

    layers: candidates, by default the dataset's; layer 0 may be added. Raises DatasetError where nothing was swept or
    `out` holds other data.
    """
    texts = read_texts(dataset, episode_splits(dataset).numbers, layers)
    if not len(texts.lengths):
        raise DatasetError(f"{dataset.path} has no sweeps to draw transitions from: collect without --no-sweep")
    header = {name: value for name, value in dataset.header.items() if name != "format"}
    open_for_writing(out, header | {"layers": list(texts.layers)}, dataset.draft_vocabulary)
    source = {"name": dataset.name, "runs": [run["id"] for run in dataset.runs]}
    arguments = {"simulated_from": source, "max_drafts": max_drafts, "seed": seed}
    behaviour = {"kind": "uniform", "draft_chance": DRAFT_CHANCE}
    facts = {"simulated": True, "versions": {}, "device": {}, "behaviour": behaviour, "costs": None}
    with suppress(DatasetError):
        facts["costs"] = dataset_costs(dataset)[0].to_json()
    run = start_run(out, arguments, facts)
    table, numbers = dataset.read("episodes", EPISODES.names[1:])  # all but the number
    known = dict(zip(numbers.tolist(), table.to_pylist(), strict=True))
    free = Costs(dataset.model_layers, (0.0,) * MAX_ROWS, (0.0,) * MAX_ROWS, 0.0, 0.0, 0.0, 0.0)
    count = 0
    with EpisodeWriter(run) as writer:
        done = run.committed()  # now that nobody else writes
        for number, source_number in enumerate(texts.numbers.tolist()):
            rule = Uniform(texts.layers, stable_hash(f"{seed}/{number}"))
            rule.max_drafts = max_drafts
            rounds = Record(texts, number, free, (0.0, 0.0)).rounds(rule)
            rows = transitions(number, rounds)
            count += len(rows["step"])
            if number not in done:
                episode = known[source_number] | {"episode": number, "rounds": len(rounds), "seconds": 0.0}
                drafted, accepted = sum(len(r.drafts) for r in rounds), sum(r.accepted for r in rounds)
                writer.add(episode | {"drafted": drafted, "accepted": accepted}, rows)
    return count
