"""How a part of a dataset in an object store is committed: there are no locks there, and nothing can be renamed."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa

from lede.replay.errors import DatasetError
from lede.replay.parquet import encode, parts_of
from lede.replay.parts import committed_parts, table_files, table_folder
from lede.replay.storage import create


class Commits:
    """The commits of one writer of a run.

    They are numbered, and of two with one number the first wins. Whoever wrote it had seen all commits before, so no
    episode is committed twice. Objects of the other tables have names of their own, one for each attempt, and count for
    nothing without their commit.
    """

    def __init__(self, root: Path, run: str, worker: int, committed: Iterable[str]) -> None:
        self._root, self._run, self._worker = root, run, worker
        self._parts = self._own(committed)
        self._names = self._listed()
        self._tried: dict[str, int] = {}  # parts, and how many episodes they have

    def publish(self, name: str, rows: Mapping[str, pa.Table]) -> int:
        """Create the objects of a part, the commit last; returns of how many of its episodes, counted from the first.

        They are fewer if an earlier attempt had succeeded, and only the answer was lost. Raises `DatasetError` if
        somebody else has committed as this writer, `OSError` if nothing is known of the commit.
        """
        part = f"{name}.{secrets.token_hex(4)}"
        self._tried[part] = rows["episodes"].num_rows
        commit = table_folder(self._root, "transitions", self._run) / f"{name}.parquet"
        try:
            if (names := self._listed()) != self._names:  # a rival, or compaction, which keeps the parts
                if self._own(committed_parts(self._root, self._run)) != self._parts:
                    raise FileExistsError
                self._names = names
            for table, columns in rows.items():
                path = table_folder(self._root, table, self._run) / f"{part}.parquet"
                create(commit if table == "transitions" else path, encode(columns, table, [part]))
        except FileExistsError as error:
            held = parts_of(commit, "transitions") if commit.exists() else frozenset()
            if not held or not held <= self._tried.keys():
                raise DatasetError(
                    f"{self._root}: another writer {self._worker} of run {self._run} is at work, wait until its "
                    "collector is done"
                ) from error
            (part,) = held
        self._parts.add(part)
        self._names.add(commit.name)
        return self._tried[part]

    def _own(self, parts: Iterable[str]) -> set[str]:
        return {part for part in parts if part.startswith(f"part-{self._worker}-")}

    def _listed(self) -> set[str]:
        return {path.name for path in table_files(self._root, "transitions", self._run)}
