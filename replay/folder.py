"""A dataset in a folder: how files become visible on a disk, whole and durably, and how they are locked."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lede.replay.errors import DatasetError

STAGING = ".staging"
# Flags of renames in one step on Linux and on macOS: to a name that is free; of two that change places.
NEW, EXCHANGE = (1, 4), (2, 2)
UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV)


@dataclass(frozen=True)
class Folder:
    """A `Store` in a folder. Files are written in `.staging`, or hidden beside their place, and renamed."""

    path: Path
    locks: ClassVar[bool] = True

    def list(self, folder: str = "") -> Sequence[str]:
        """See `Store`."""
        try:
            with os.scandir(self.path / folder) as entries:
                return sorted(entry.name + "/" * entry.is_dir() for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def stat(self, name: str) -> tuple[int, float]:
        """See `Store`."""
        found = (self.path / name).stat()
        return found.st_size, found.st_mtime

    def read(self, name: str) -> bytes:
        """See `Store`."""
        return (self.path / name).read_bytes()

    def read_tail(self, name: str, size: int) -> bytes:
        """See `Store`."""
        with (self.path / name).open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - size, 0))
            return file.read()

    def source(self, name: str) -> Path:
        """See `Store`; Arrow reads no more than the columns that it needs."""
        return self.path / name

    def scan_options(self) -> Mapping[str, Any]:
        """See `Store`."""
        return {}

    def create(self, name: str, data: bytes, before: Mapping[str, bytes] | None = None) -> None:
        """See `Store`. All are on the disk before the first becomes visible."""
        if (self.path / name).exists():
            raise FileExistsError(errno.EEXIST, "is there already", str(self.path / name))
        files = {**(before or {}), name: data}
        try:
            for file, content in files.items():
                stage(self._staged(file), content)
            for file in files:
                publish(self._staged(file), self.path / file, new=file == name)
        except BaseException as error:
            # Undo from the last backwards; where somebody else was first, all that is visible is theirs now.
            visible = [] if isinstance(error, FileExistsError) else [self.path / file for file in reversed(files)]
            _remove(*visible, *map(self._staged, files))
            raise

    def replace(self, name: str, data: bytes) -> None:
        """See `Store`."""
        try:
            stage(self._staged(name), data)
            publish(self._staged(name), self.path / name)
        finally:
            _remove(self._staged(name))

    def _staged(self, name: str) -> Path:
        """Where a file is before it is visible: in `.staging` if it is a table's, as those are scanned; else beside."""
        *folders, last = name.split("/")
        if len(folders) == 2:
            table, run = folders
            return self.path / STAGING / f"{run.removeprefix('run=')}.{last.removesuffix('.parquet')}.{table}.tmp"
        return (self.path / name).with_name(f".{last}.{os.getpid()}.tmp")

    def move(self, name: str, to: str) -> None:
        """See `Store`."""
        publish(self.path / name, self.path / to)
        sync_folder((self.path / name).parent)

    def delete(self, name: str) -> None:
        """See `Store`."""
        if name.endswith("/"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        else:
            (self.path / name).unlink(missing_ok=True)

    def swap(self, folder: str, groups: Mapping[str, Sequence[str]], joined: Callable[[Sequence[str]], bytes]) -> None:
        """See `Store`. The new files are built in `.staging`; then the two folders change places in one step.

        So a scan lists the old files or the new ones, never both. Raises `DatasetError` if the file system cannot do
        that, or a file came meanwhile.
        """
        target, work = self.path / folder, self.path / STAGING / f"compact-{folder.rpartition('=')[2]}"
        merged = work / folder.partition("/")[0]
        shutil.rmtree(work, ignore_errors=True)  # an earlier attempt: what it replaced, or did not get to put in place
        try:
            for name, group in groups.items():
                stage(merged / name, joined(group))
            sync_folder(merged)
            held = {f"{folder}/{name}" for name in self.list(folder) if name.endswith(".parquet") and name[0] != "."}
            if held != {name for group in groups.values() for name in group}:
                raise DatasetError(f"{target} is being written: compact when its collector is done")
            exchange(merged, target)
            sync_folder(target.parent)
            sync_folder(work)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def lock(self, name: str, *, exclusive: bool, wait: bool = False) -> AbstractContextManager[Any] | None:
        """See `Store`. Where the file system has no locks, nothing is refused."""
        path = self.path / name
        make_folder(path.parent)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        held = ExitStack()
        held.callback(os.close, handle)
        how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(handle, how | (fcntl.LOCK_NB if exclusive and not wait else 0))
        except BlockingIOError:
            held.close()
            return None
        except OSError:  # no locks here
            pass
        return held

    @contextmanager
    def build(self) -> Iterator[Folder]:
        """See `Store`. It is built beside its place, in a hidden folder that the next attempt clears."""
        target = Path(os.path.abspath(self.path))
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise DatasetError(f"{self.path} is there already: choose a new folder")
        work = Folder(target.with_name(f".{target.name}.merging"))
        if (lock := work.lock("runs/merge.lock", exclusive=True)) is None:
            raise DatasetError(f"another merge into {self.path} is at work")
        with lock:
            try:
                for name in {*work.list()} - {"runs/"} | {f"runs/{name}" for name in work.list("runs")}:
                    if name != "runs/merge.lock":
                        work.delete(name)
                yield work
                publish(work.path, target)
            finally:
                shutil.rmtree(work.path, ignore_errors=True)


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def named(error: OSError, path: Path) -> OSError:
    """The same error about `path`."""
    return OSError(error.errno, os.strerror(error.errno or 0), str(path))


def stage(path: Path, data: bytes) -> None:
    """Write a file and its data to the disk; if that fails, remove it and raise an `OSError` that names it."""
    try:
        make_folder(path.parent)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise named(error, path) from error


def publish(staged: Path, path: Path, new: bool = False) -> None:
    """Make a staged file visible under its name, durably. Raises an `OSError` that names `path`.

    new: raise `FileExistsError` where there is one. A file system that cannot tell in one step is asked before.
    """
    try:
        make_folder(path.parent)
        code = rename(staged, path, NEW) if new else 0
        if not new or (code in UNABLE and not path.exists()):
            staged.replace(path)
        elif code:
            raise OSError(errno.EEXIST if code in UNABLE else code, os.strerror(code))
        sync_folder(path.parent)
    except OSError as error:
        raise named(error, path) from error


def rename(one: Path, other: Path, how: tuple[int, int]) -> int:
    """Rename in a way that Python's own functions do not; returns the number of the error, or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    linux, macos = how
    try:
        if sys.platform == "darwin":
            result = libc.renamex_np(os.fsencode(one), os.fsencode(other), macos)
        else:
            here = ctypes.c_int(-100)  # AT_FDCWD
            result = libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), linux)
        return ctypes.get_errno() if result else 0
    except AttributeError:  # a C library without the call
        return errno.ENOSYS


def exchange(one: Path, other: Path) -> None:
    """Let two folders on one file system change places, atomically."""
    code = rename(one, other, EXCHANGE)
    if code in UNABLE:
        raise DatasetError(
            f"the file system of {other} cannot swap folders in one step, and nothing was changed: "
            "copy the dataset to a local disk, compact it there, and copy it back"
        )
    if code:
        raise OSError(code, os.strerror(code), str(other))


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        with suppress(FileExistsError):  # where a file is in the way, what is to be in the folder cannot be made
            folder.mkdir()
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
