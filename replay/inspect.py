"""The numbers of `lede inspect`: what a dataset holds, as a plain dict to print, to plot or to save as JSON."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from lede.process import CONTINUE, DRAFT, EXIT, WALK
from lede.replay.columns import Columns
from lede.replay.errors import DatasetError
from lede.replay.integrity import verify
from lede.replay.reader import open_dataset
from lede.replay.schema import FROM_LOGITS, STATE, TABLES
from lede.replay.split import SPLITS, episode_splits

BINS = 40
MOST = 5_000_000  # decisions of which all are read


def inspect_dataset(path: str | os.PathLike[str], most: int | None = MOST) -> dict[str, Any]:
    """Describe a dataset.

    most: of more decisions, layers, draft_lengths, rewards and features are those of about so many (`sampled` says how
    many, None: of all), and files are not verified (integrity is None).

    Keys: path, header, runs, integrity (a list of {path, kind, message, harmless}), sampled; and, unless damage keeps
    it from being read (then `unreadable` says why): counts, tasks, splits ({split: {episodes, groups, swept}}), layers
    (one dict a candidate), draft_lengths (rounds with 0, 1, … drafts), rewards (edges, counts, mean, std) and features
    (the same, and `accepted`: the share of accepted drafts in each bin, None where there are no rows; what comes from
    logits without the rows of layer 0).
    Raises `DatasetError` if there is no dataset or it has no rows.
    """
    dataset = open_dataset(path)
    decisions = 0  # of a damaged one, which is verified
    with suppress(DatasetError):
        decisions = dataset.rows("transitions")
    findings = [finding.facts() for finding in verify(path)] if most is None or decisions <= most else None
    report = {"path": str(path), "header": dataset.header, "runs": dataset.runs, "integrity": findings, "sampled": None}
    try:
        columns = dataset.columns(horizon="round", features="extended", most=most)
        names = ["task", "rounds", "drafted", "accepted", "seconds", "output_tokens"]
        episodes, _ = dataset.read("episodes", names)
        splits, swept = episode_splits(dataset), dataset.swept()
    except DatasetError as error:
        if all(finding["harmless"] for finding in findings or ()):
            raise
        return report | {"unreadable": str(error)}
    files = [file for table in TABLES for run in dataset.files(table).values() for file in run]
    ends = columns.chain_starts[1:] - 1
    bypassed = (columns.raw["phase"][ends] == WALK) & (columns.actions[ends] == CONTINUE)
    return report | {
        "sampled": None if findings is not None else len(columns.actions),
        "counts": {
            **{name: pc.sum(episodes[name]).as_py() for name in ("rounds", "drafted", "accepted", "seconds")},
            "episodes": len(episodes),
            "tokens": pc.sum(pc.list_value_length(episodes["output_tokens"])).as_py(),
            "decisions": decisions,
            "files": len(files),
            "bytes": sum(file.store.stat(file.name)[0] for file in files),
        },
        "tasks": dict(sorted(Counter(episodes["task"].to_pylist()).items())),
        "splits": {
            split: {
                "episodes": int(side.sum()),
                "groups": len(np.unique(splits.group[side])),
                "swept": int(np.isin(splits.numbers[side], swept).sum()),
            }
            for split in SPLITS
            for side in [splits.split == split]
        },
        "layers": [_layer(columns, layer) for layer in columns.layers],
        "draft_lengths": np.bincount(columns.raw["draft_index"][ends] - bypassed).tolist(),
        "rewards": _histogram(columns.rewards),
        "features": {
            name: _histogram(columns.observations[rows, place], columns.raw["accepted"][rows])
            for place, name in enumerate(STATE)  # at layer 0 only what has a meaning there
            for rows in [columns.raw["layer"] != 0 if name in FROM_LOGITS else slice(None)]
        },
    }


def _layer(columns: Columns, layer: int) -> dict[str, Any]:
    """What happened at one candidate layer; shares are None where there is nothing to divide by.

    visits: walk decisions made here. agreement: share of them whose token the full model confirmed. exits, exit_share:
    walks that ended here, and their share of the visits. drafted, accepted, acceptance: drafts made here, the first of
    each round included. drafts_per_round, tokens_per_round: of the rounds drafted here.
    """
    raw = columns.raw
    here, right = raw["layer"] == layer, raw["accepted"]
    walk = here & (raw["phase"] == WALK)
    exit_ = walk & (columns.actions == EXIT)
    draft = exit_ | (here & (raw["phase"] == DRAFT))
    masks = (walk, walk & right, exit_, draft, draft & right)
    visits, agreed, rounds, drafted, accepted = (int(mask.sum()) for mask in masks)
    return {
        "layer": layer,
        **{"visits": visits, "exits": rounds, "drafted": drafted, "accepted": accepted},
        "agreement": _share(agreed, visits),
        "exit_share": _share(rounds, visits),
        "acceptance": _share(accepted, drafted),
        "drafts_per_round": _share(drafted, rounds),
        "tokens_per_round": _share(accepted + rounds, rounds),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _histogram(values: NDArray[Any], accepted: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    counts, edges = np.histogram(values, bins=BINS)
    result: dict[str, Any] = {"edges": edges.tolist(), "counts": counts.tolist(), "mean": None, "std": None}
    if len(values):
        result |= {"mean": float(values.mean(dtype=np.float64)), "std": float(values.std(dtype=np.float64))}
    if accepted is not None:
        good, _ = np.histogram(values[accepted], bins=edges)
        result["accepted"] = [_share(int(g), int(n)) for g, n in zip(good, counts, strict=True)]
    return result
