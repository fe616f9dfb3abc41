"""Files on a disk: how they become visible, whole and durably, and how they are locked."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path

from lede.replay.parquet import named
from lede.replay.storage import ObjectPath, create

STAGING = ".staging"


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


def publish(staged: Path, path: Path) -> None:
    """Make a staged file visible under its name, durably. Raises an `OSError` that names `path`."""
    try:
        make_folder(path.parent)
        staged.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise named(error, path) from error


def write_json(path: Path, content: object) -> None:
    """Write a JSON file that appears whole or not at all, durably. Raises an `OSError` that names it."""
    data = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    if isinstance(path, ObjectPath):
        with suppress(FileExistsError):  # what was first stays, and who opens the dataset compares
            create(path, data)
        return
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        stage(staged, data)
        publish(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def hold(path: Path, *, exclusive: bool, wait: bool = False) -> int | None:
    """Lock a file until the returned descriptor is closed or the process dies.

    Exclusively, or None if somebody else holds it (unless told to `wait`); shared after waiting for whoever holds it
    exclusively. Locks refuse two writers with one number and compaction under a writer; where the file system has none,
    nothing is refused.
    """
    if isinstance(path, ObjectPath):  # no locks there: commits refuse each other, see `writer`
        return os.open(os.devnull, os.O_RDONLY)
    make_folder(path.parent)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(
            handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (fcntl.LOCK_NB if exclusive and not wait else 0)
        )
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:  # no locks here
        pass
    return handle
