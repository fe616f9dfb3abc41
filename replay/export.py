"""A dataset in forms that other tools read: CSV files, and a folder for the `datasets` library and its hub."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lede.replay.errors import DatasetError
from lede.replay.schema import TABLES
from lede.replay.split import SPLITS

if TYPE_CHECKING:
    import polars as pl

    from lede.replay.reader import Dataset

CARD = """---
configs:
{configs}tags:
- speculative-decoding
- offline-rl
---
# {name}

Decisions of self-speculative decoding, written by [lede](https://arxiv.org/abs/2606.03113): how deep {model} drafted,
when it stopped, how likely each decision was, and what came of it. Candidate layers: {layers}, of {depth}.

`transitions` has a row a decision, `episodes` a row a prompt, `sweeps` what every layer would have drafted at every
token; `run` and `episode` name the text in all of them. Texts are split by their module, article or conversation.
"""


@contextmanager
def whole(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end, or vanishes. Raises `DatasetError` if `out` holds anything."""
    target = Path(os.path.abspath(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DatasetError(f"{out} is there already: choose a new folder")
    work = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        work.mkdir(parents=True)
        yield work
        work.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def frames(dataset: Dataset) -> dict[str, pl.LazyFrame]:
    """Every table that has rows, each with the column `split`: the side that learning and evaluating put a text on.

    Raises `DatasetError` if there are no rows, or a file is damaged.
    """
    tables = [table for table in TABLES if any(dataset.files(table).values())]
    if "transitions" not in tables:
        raise DatasetError(f"{dataset.path} has no transitions yet: collect some first (lede collect)")
    found, sides = {"episodes": dataset.episodes}, dataset.episodes.select("run", "episode", "split")
    for table in tables[1:]:
        frame: pl.LazyFrame = getattr(dataset, table)
        found[table] = frame.join(sides, on=["run", "episode"], how="left", maintain_order="left")
    return found


def to_csv(dataset: Dataset, out: str | os.PathLike[str]) -> None:
    """Write `episodes.csv`, `transitions.csv` and, where there are any, `sweeps.csv`; token ids are joined by spaces.

    Raises `DatasetError` if the dataset is damaged or `out` holds anything; `OSError`.
    """
    import polars as pl

    with whole(out) as folder:
        for table, frame in frames(dataset).items():
            tokens = pl.selectors.list().cast(pl.List(pl.String)).list.join(" ")
            frame.with_columns(tokens).sink_csv(folder / f"{table}.csv")


def to_hf(dataset: Dataset, out: str | os.PathLike[str]) -> None:
    """Write a folder that `datasets.load_dataset(out, "transitions")` reads, and that can be uploaded as it is.

    The tables are its configurations, train, validation and test their splits. Raises as `to_csv`.
    """
    import polars as pl

    with whole(out) as folder:
        configs = ""
        for table, frame in reversed(frames(dataset).items()):
            (folder / table).mkdir()
            held = frame.select(pl.col("split").unique()).collect()["split"].to_list()
            configs += f"- config_name: {table}\n" + "  default: true\n" * (not configs) + "  data_files:\n"
            for split in (split for split in SPLITS if split in held):
                frame.filter(pl.col("split") == split).sink_parquet(folder / table / f"{split}.parquet")
                configs += f"  - split: {split}\n    path: {table}/{split}.parquet\n"
        model, name = dataset.header["model"], dataset.name
        told = {"model": model["name"], "layers": ", ".join(map(str, dataset.layers)), "depth": model["layers"]}
        (folder / "README.md").write_text(CARD.format(configs=configs, name=name, **told), "utf-8")
