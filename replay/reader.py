"""Reading a replay dataset: lazy polars frames for people, plain arrays for learning."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lede.replay.columns import Columns, Samples, select, walks, with_candidates, with_features
from lede.replay.errors import DatasetError
from lede.replay.header import VOCABULARY, common_header, read_json
from lede.replay.parquet import count_rows, not_finite, parts_of, read_columns
from lede.replay.parts import committed_parts, described, episode_numbers, live_files, run_ids
from lede.replay.reward import paper_reward
from lede.replay.runs import load_runs
from lede.replay.schema import ADDED, EXTENDED, PAPER_STATE, STATE, TABLES, ascending, last_rows
from lede.replay.split import Split, episode_splits
from lede.replay.store import URL, File, Store, open_store

if TYPE_CHECKING:
    import polars as pl

Horizon = Literal["walk", "round"]
Features = Literal["paper", "extended"]

#: Columns handed on as they are in `Columns.raw`.
RAW = ("phase", "layer", "draft_index", "forced", "accepted", "draft_token", "target_token", "round")


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk, or several as one. Every access looks at the files there are at that moment."""

    store: Store
    header: dict[str, Any]
    others: tuple[Store, ...] = ()  # that hold other runs
    # k, n: only every n-th file of transitions from the k-th on, and what belongs to it
    window: tuple[int, int] = (0, 1)
    tasks: frozenset[str] | None = None  # of `where`
    only: frozenset[str] | None = None  # ids of runs
    between: tuple[int, int] | None = None  # layers

    @property
    def path(self) -> Path | URL:
        """Where the first is."""
        return self.store.path

    @property
    def name(self) -> str:
        """The folder's name; of several, with + between."""
        return "+".join(store.path.resolve().name for store in (self.store, *self.others))

    @property
    def runs(self) -> list[dict[str, Any]]:
        """What is known of each run (arguments, versions, device, …), oldest first."""
        return load_runs(self.store, *self.others)

    @property
    def layers(self) -> tuple[int, ...]:
        """Candidate exit layers, ascending; 0 is the prompt lookup."""
        low, high = self.between or (0, self.model_layers)
        return tuple(layer for layer in self.header["layers"] if low <= layer <= high)

    @property
    def model_layers(self) -> int:
        """L, the number of layers of the model."""
        return int(self.header["model"]["layers"])

    @property
    def draft_vocabulary(self) -> tuple[int, ...] | None:
        """Ids of the tokens that real layers could draft, ascending, over which their states are; None: all tokens."""
        named = self.header["model"].get("draft_vocabulary")
        return tuple(read_json(File(self.store, VOCABULARY), "tokens")["tokens"]) if named else None

    @property
    def transitions(self) -> pl.LazyFrame:
        """One row a decision, and `run`."""
        return self._scan("transitions")

    @property
    def episodes(self) -> pl.LazyFrame:
        """One row a prompt, and `run`; `split` is the side on which every command has the text (`replay.split`)."""
        import polars as pl

        splits = episode_splits(self._all())
        sides = {
            "run": [f"r{number:07x}" for number in (splits.numbers >> 32).tolist()],
            "episode": splits.numbers & 0xFFFFFFFF,
            "side": splits.split.tolist(),
        }
        schema = {"run": pl.String, "episode": pl.UInt32, "side": pl.String}
        right = pl.LazyFrame(sides, schema)
        frame = self._scan("episodes").join(right, on=["run", "episode"], how="left", maintain_order="left")
        return frame.with_columns(split=pl.coalesce("side", "split")).drop("side")

    @property
    def sweeps(self) -> pl.LazyFrame:
        """One row a candidate layer and committed position, and `run`; empty if none were collected."""
        return self._scan("sweeps")

    def swept(self) -> NDArray[np.int64]:
        """The episodes that have sweeps: their numbers as in `Columns.episodes`, ascending."""
        return np.unique(self.read("sweeps", [])[1])

    def where(
        self,
        tasks: Iterable[str] | None = None,
        runs: Iterable[str] | None = None,
        layers: tuple[int, int] | None = None,
    ) -> Dataset:
        """Only the episodes of some tasks and runs, and the candidates between two layers, these included.

        Sides of the split stay those of the whole. Frames leave the rows of other layers out; `columns` and `samples`
        hold rounds as a walk over the candidates that are left would have logged them. `rows` counts whole files.
        Raises `DatasetError` if there is nothing of what is asked for.
        """
        some = replace(
            self,
            tasks=self.tasks if tasks is None else frozenset(tasks),
            only=self.only if runs is None else frozenset(runs),
            between=layers or self.between,
        )
        known = {str(run["id"]) for run in self.runs}
        if strange := (some.only or frozenset()) - known:
            raise DatasetError(f"{self.path} has no run {min(strange)}, only {', '.join(sorted(known))}")
        held = set(self._all().read("episodes", ["task"])[0]["task"].to_pylist())
        if strange := (some.tasks or frozenset()) - held:
            raise DatasetError(f"{self.path} has no episodes of {min(strange)!r}, only of {', '.join(sorted(held))}")
        if not some.layers:
            raise DatasetError(f"{self.path} has candidates {self.layers}: none is within {layers}")
        return some

    def _all(self) -> Dataset:
        """The same without `where`."""
        return replace(self, tasks=None, only=None, between=None)

    def _chosen(self) -> NDArray[np.int64]:
        """The numbers of the episodes of the tasks asked for."""
        rows, numbers = replace(self, tasks=None).read("episodes", ["task"])
        return numbers[np.isin(rows["task"].to_numpy(zero_copy_only=False), list(self.tasks or ()))]

    def files(self, table: str) -> dict[str, list[File]]:
        """The committed files of a table by run. Raises `DatasetError` if one is damaged or rows are stored twice."""
        files = {}
        first, every = self.window
        before = 0
        for store in (self.store, *self.others):
            for run in run_ids(store):
                if self.only is not None and run not in self.only:
                    continue
                parts = committed_parts(store, run)
                commits = sorted(set(parts.values()))
                files[run] = commits[(first - before) % every :: every]
                before += len(commits)
                if table != "transitions":
                    here = {part for part, file in parts.items() if every == 1 or file in files[run]}
                    live = live_files(store, table, run, parts)
                    files[run] = live if every == 1 else [file for file in live if parts_of(file) & here]
        return files

    def windows(self, most: int) -> list[Dataset]:
        """The dataset in as many parts as there must be for none to have much more than `most` decisions.

        Every n-th file is in the same part, whatever its run: each is a sample of the whole. An episodes or sweeps file
        that belongs to several is in all of them. No file is in two halves: a part may be a file that has more.
        """
        count = sum(map(len, self.files("transitions").values()))
        every = max(1, min(count, -(-self.rows("transitions") // max(most, 1))))
        return [replace(self, window=(k, every)) for k in range(every)]

    def rows(self, table: str) -> int:
        """How many committed rows a table has, by the footers of its files. Raises as `files`."""
        return sum(count_rows(file) for files in self.files(table).values() for file in files)

    def read(self, table: str, columns: Sequence[str], most: int | None = None) -> tuple[pa.Table, NDArray[np.int64]]:
        """Columns of all committed rows of a table, and the number of each row's episode; checksums are verified.

        most: of more rows, about so many are read, from every n-th file. Raises `DatasetError` if a file is damaged, or
        a number in it is NaN or infinite.
        """
        tables = [pa.schema([TABLES[table].field(name) for name in columns]).empty_table()]
        numbers = [np.empty(0, np.int64)]
        every = 1 if most is None else max(1, -(-self.rows(table) // most))
        files = [(run, file) for run, held in self.files(table).items() for file in held]
        for run, file in files[::every]:
            rows = read_columns(file, ["episode", *columns])
            if wrong := ", ".join(not_finite(rows)):
                hint = "lede repair sets it aside, then collect again with the same arguments to replace its rows"
                raise DatasetError(f"{file} holds NaN or infinite numbers in {wrong}: {hint}")
            tables.append(rows.select(list(columns)))
            numbers.append(episode_numbers(run, rows["episode"].to_numpy()))
        found, held = pa.concat_tables(tables), np.concatenate(numbers)
        if self.tasks is None:
            return found, held
        mask = np.isin(held, self._chosen())
        return found.filter(pa.array(mask)), held[mask]

    def _scan(self, table: str) -> pl.LazyFrame:
        import polars as pl  # here, because writing must work without it

        empty = pl.DataFrame(pl.from_arrow(TABLES[table].empty_table()))
        chosen = None if self.tasks is None else self._chosen()
        frames = [empty.lazy().with_columns(run=pl.lit("", pl.String))]
        for run, files in self.files(table).items():
            if files:
                frame = pl.scan_parquet(
                    [str(file) for file in files],
                    **files[0].store.scan_options(),
                    schema=empty.schema,
                    extra_columns="ignore",
                    missing_columns="insert",
                    hive_partitioning=False,
                    glob=False,
                )
                if chosen is not None:
                    here = chosen[chosen >> 32 == int(run[1:], 16)] & 0xFFFFFFFF
                    frame = frame.filter(pl.col("episode").is_in(here.astype(np.uint32)))
                added = [pl.col(name).fill_null(ADDED[name]) for name in empty.columns if name in ADDED]
                frames.append(frame.with_columns(*added, run=pl.lit(run, pl.String)))
        frame = pl.concat(frames)
        if self.between is not None and table != "episodes":
            frame = frame.filter(pl.col("layer").is_between(*self.between))
        return frame

    def columns(self, horizon: Horizon = "walk", features: Features = "paper", most: int | None = None) -> Columns:
        """Decisions as arrays, with the paper's reward; page checksums are verified.

        horizon: `walk` has the decisions of the layer walks, an exit or the bypass ends a chain; `round` has all
            decisions, the last one of a round ends a chain unless it was truncated.
        features: `paper` (three), or `extended`: the state, draft_index and an indicator `layer=<l>` a candidate.
        most: of more decisions, about so many, from files spread evenly.

        Raises `DatasetError` if there are no rows, a file is damaged, or an episode is stored twice.
        """
        table, episodes = self.read("transitions", ("step", *RAW, *STATE, "action", "propensity", "truncated"), most)
        if not len(episodes):
            raise DatasetError(f"{self.path} has no transitions yet: collect some first (lede collect)")
        rows, episodes = _in_order({name: table[name].to_numpy() for name in table.column_names}, episodes, self.path)
        last = last_rows(episodes, rows["round"])
        inputs = {name: rows[name] for name in EXTENDED}
        layers = self._all().layers
        inputs |= {f"layer={layer}": rows["layer"] == layer for layer in layers}
        columns = Columns(
            observations=np.stack([column.astype(np.float32) for column in inputs.values()], axis=1),
            actions=rows["action"],
            rewards=paper_reward(rows["action"], rows["accepted"], rows["layer"], self.model_layers),
            terminals=last & ~rows["truncated"],
            chain_starts=np.concatenate([[0], np.flatnonzero(last) + 1]).astype(np.int64),
            truncated=rows["truncated"][last],
            propensities=rows["propensity"],
            episodes=episodes,
            feature_names=tuple(inputs),
            layers=layers,
            raw={name: rows[name] for name in (*RAW, "temperature")},
        )
        if self.between is not None:
            columns = with_candidates(columns, self.layers)
        columns = walks(columns) if horizon == "walk" else columns
        return with_features(columns, PAPER_STATE) if features == "paper" else columns

    def samples(self, split: Split | None = None, horizon: Horizon = "walk", features: Features = "paper") -> Samples:
        """Transitions for torch, those of one side of the split or all; the rest is as in `columns`."""
        columns, splits = self.columns(horizon, features), episode_splits(self._all())
        here = splits.numbers[(splits.split == split) | (split is None)]
        return Samples(select(columns, np.isin(columns.episodes, here)))


def open_dataset(path: str | os.PathLike[str], *others: str | os.PathLike[str]) -> Dataset:
    """Open a dataset for reading, or several of one model and the same candidates as one.

    Raises `DatasetError` if one is none, its format is newer than this library, or they do not fit together.
    """
    stores = [open_store(path), *map(open_store, others)]
    header = common_header(stores)
    home: dict[str, Store] = {}  # of each run
    for store in stores if others else []:
        for run in run_ids(store):
            if run in home:
                told = "take only the one that has more of it, or lede merge them if they are shards"
                raise DatasetError(f"run {run} is in {home[run].path} and in {store.path}: {told}")
            home[run] = store
    return Dataset(stores[0], header, (*stores[1:],))


def _in_order(
    rows: dict[str, NDArray[Any]], episodes: NDArray[np.int64], path: Path | URL
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Sort by episode, so that the result does not depend on how rows are spread over files.

    Raises `DatasetError` if the rows of an episode are then out of order, as they are if two files have it.
    """
    if not np.all(episodes[1:] >= episodes[:-1]):
        order = np.argsort(episodes, kind="stable")
        rows, episodes = {name: column[order] for name, column in rows.items()}, episodes[order]
    right = ascending([episodes, rows["round"], rows["step"]])
    if not right.all():
        number = int(episodes[np.argmin(right)])
        raise DatasetError(f"{path}: {described(number)} is stored twice or out of order: see lede verify")
    return rows, episodes
