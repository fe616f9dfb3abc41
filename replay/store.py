"""Where a dataset is kept: a folder of a file system, or a bucket of an object store. All else knows only `Store`.

Files have names from the dataset's root, such as `runs/r1234567.json`; those of folders end with a slash.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from lede.replay.bucket import SCHEMES, URL, Bucket
from lede.replay.errors import DatasetError
from lede.replay.folder import Folder


class Store(Protocol):
    """The files of one dataset. Each is visible whole or not at all, and what is visible survives a loss of power.

    What fails raises an `OSError` that names the file, `FileNotFoundError` where it is not there.
    """

    #: Whether `lock` keeps anybody away and `swap` is one step. Where not, commits refuse each other (see `create`),
    #: nothing of others is removed, and files that a larger one holds too do not count (see `parts.superseded`).
    locks: ClassVar[bool]

    @property
    def path(self) -> Path | URL:
        """Where it is; `path / name` is what messages call a file."""

    def list(self, folder: str = "") -> Sequence[str]:
        """What is in a folder, sorted, by its last name; of folders with a slash. Nothing where there is no folder."""

    def stat(self, name: str) -> tuple[int, float]:
        """A file's size in bytes, and when it was written, in seconds since 1970."""

    def read(self, name: str) -> bytes:
        """All of a file."""

    def read_tail(self, name: str, size: int) -> bytes:
        """A file's last `size` bytes, or all if there are fewer."""

    def source(self, name: str) -> Path | bytes:
        """What Arrow reads a file from: a path on a disk, or else its bytes."""

    def scan_options(self) -> Mapping[str, Any]:
        """How polars reaches the files: arguments of its `scan_parquet`."""

    def create(self, name: str, data: bytes, before: Mapping[str, bytes] | None = None) -> None:
        """Write a file that is not there yet. Raises `FileExistsError` if it is: of two that write it, the first wins.

        before: files that count for nothing without it, which become visible first, in their order, over any that are
        there. If it fails, none is left where that can be helped.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, over one that may be there."""

    def move(self, name: str, to: str) -> None:
        """Give a file, or a folder with all that is in it, another name."""

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; it may be gone already."""

    def swap(self, folder: str, groups: Mapping[str, Sequence[str]], joined: Callable[[Sequence[str]], bytes]) -> None:
        """Let each group of a folder's files become one new file, `joined(group)`. groups: {new name: names}."""

    def lock(self, name: str, *, exclusive: bool, wait: bool = False) -> AbstractContextManager[Any] | None:
        """Hold a lock until the context is left or the process dies.

        Exclusively, or None if somebody else holds it (unless told to `wait`); shared after waiting for whoever holds
        it exclusively. Where there are no locks, nothing is refused.
        """

    def build(self) -> AbstractContextManager[Store]:
        """A store to fill, dataset.json last, that becomes this one when the context is left, or nothing if it fails.

        Raises `DatasetError` if anything is here, or somebody else is building it.
        """


class File(NamedTuple):
    """A file of a dataset; as a string, where it is."""

    store: Store
    name: str

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Path | URL:
        """Where it is."""
        return self.store.path / self.name

    @property
    def folder(self) -> str:
        """The name of the folder that it is in."""
        return self.name.rpartition("/")[0]

    @property
    def table(self) -> str:
        """The table that it is of, where it is of one: the first folder."""
        return self.name.partition("/")[0]

    @property
    def stem(self) -> str:
        """Its last name without the suffix."""
        return self.name.rpartition("/")[2].rpartition(".")[0]

    def read(self) -> bytes:
        """All of it."""
        return self.store.read(self.name)


def place(path: str | os.PathLike[str]) -> Path | URL:
    """Where a dataset is, as it is written: a path or a URL. Raises `DatasetError` if it is neither."""
    if isinstance(path, URL):
        return path
    text = os.fspath(path)
    scheme, _, rest = text.partition("/")
    if scheme == "file:":
        return Path("/" + rest.lstrip("/"))
    if scheme in SCHEMES:
        bucket, *names = rest.lstrip("/").split("/")
        if not bucket or rest.startswith("//"):
            raise DatasetError(f"{text} names no bucket: give {scheme}//BUCKET/NAME")
        if not re.fullmatch(r"[\w.-]+(@[\w.-]+)?" if scheme == "abfss:" else r"[\w.-]+", bucket) or ".." in bucket:
            raise DatasetError(f"{text}: {bucket} is no name of a bucket: give {scheme}//BUCKET/NAME")
        if wrong := [name for name in names if name in (".", "..") or not name.isprintable()]:
            raise DatasetError(f"{text}: {wrong[0]!r} cannot be in an object's name, give the name itself")
        return URL("/".join([f"{scheme}/", bucket, *filter(None, names)]))
    if rest.startswith("/") and scheme.endswith(":"):
        raise DatasetError(f"{text}: datasets are folders, or begin with {', '.join(f'{s}//' for s in SCHEMES)}")
    return Path(path)


def open_store(path: str | os.PathLike[str]) -> Store:
    """The store of a dataset, which need not be there yet. Raises `DatasetError` if this is no path and no URL."""
    where = place(path)
    return Bucket(where) if isinstance(where, URL) else Folder(where)


def files_in(store: Store, folder: str, suffix: str) -> list[File]:
    """Files with a suffix, sorted, but for names that begin with a dot: macOS leaves a `._x` beside any x."""
    names = (name for name in store.list(folder) if name.endswith(suffix) and not name.startswith("."))
    return [File(store, f"{folder}/{name}") for name in names]


def present(store: Store, name: str) -> bool:
    """Whether there is a file or a folder of this name."""
    folder, _, last = name.rstrip("/").rpartition("/")
    return not {last, f"{last}/"}.isdisjoint(store.list(folder))
