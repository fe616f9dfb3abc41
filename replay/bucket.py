"""A dataset in a bucket of an object store: s3://bucket/name and the like.

An object appears whole or not at all, so nothing is staged and nothing renamed; and nobody can lock anything. What is
written once is created, which fails if it is there: of two that write one name, the first wins.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from lede.replay.access import PREFIXES, settings
from lede.replay.errors import DatasetError

SCHEMES = tuple(PREFIXES)
RETRY: Any = {"max_retries": 5, "retry_timeout": timedelta(seconds=30)}
# Of the first request, which shows whether there is a store and a key to it: an answer within 10 s, whatever it is.
FIRST_RETRY: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=4)}
FIRST_TIMEOUTS: Any = {"timeout": timedelta(seconds=4), "connect_timeout": timedelta(seconds=3)}
# Addresses under which a cloud's machines get their keys: asked where there is nothing else.
KEYLESS = re.compile(r"169\.254\.169\.254|metadata\.google\.internal|/latest/api/token|/metadata/identity")
BUILDING = ".merging"  # an object that is there while a merge fills the place


@cache
def _driver(bucket: str) -> Any:
    """The driver of a bucket, which has answered once. Raises `OSError` with its reason, and what `settings` raises."""
    import obstore
    from obstore.exceptions import BaseError, GenericError
    from obstore.store import from_url

    found: Any = settings(bucket.partition("/")[0])
    plain: dict[str, Any] = {"allow_http": True}
    open_: Any = from_url  # whose overloads are of one kind of store each
    with said(bucket):
        first = open_(bucket, config=found, client_options=plain | FIRST_TIMEOUTS, retry_config=FIRST_RETRY)
        try:
            obstore.head(first, "dataset.json")
        except GenericError:  # no answer, or no key
            raise
        except (BaseError, FileNotFoundError):  # an answer; what is wrong is for the request that needs more to say
            pass
        return open_(bucket, config=found, client_options=plain, retry_config=RETRY)


@contextmanager
def said(name: object) -> Iterator[None]:
    """Turn what the driver raises into an `OSError` that names the object."""
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        yield
    except AlreadyExistsError as error:
        raise FileExistsError(errno.EEXIST, "is there already", str(name)) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(name)) from error
    except (BaseError, ValueError) as error:
        raise OSError(errno.EIO, reason(str(error)), str(name)) from error
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":
            raise
        # a panic, of which the driver has told on stderr
        raise OSError(errno.EIO, f"the driver of object stores broke off: {error}", str(name)) from error


def reason(told: str) -> str:
    """What the driver and the store say in one line: without the driver's structs, the store's answer without tags."""
    line, _, structs = told.strip().partition("\n\nDebug source:")
    line, _, answer = line.partition("<")
    tags = (re.search(f"<{key}>(.*?)</{key}>", answer, re.DOTALL) for key in ("Code", "Message"))
    words = [found[1] for found in tags if found]
    line = " ".join(f"{line} {': '.join(words)}".split()).strip(" :")
    if cause := re.findall(
        r'(?:message|error): "(.+?)",?\n|^\s+"(.+ error)",?$|source: (TimedOut)', structs, re.MULTILINE
    ):
        line += f" ({', '.join(dict.fromkeys(''.join(one) for one in cause))})"
    if KEYLESS.search(line):
        line = f"no keys to the store in the environment or a profile, and this machine gives none: {line}"
    return line


@dataclass(frozen=True, order=True)
class URL(os.PathLike[str]):
    """The address of a dataset in an object store, or of an object in it. No disk has it: what looks there is refused.

    text: as `store.place` makes it, `s3://bucket/name`.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> URL:
        return URL(f"{self.text}/{name}".rstrip("/"))

    @property
    def name(self) -> str:
        """The last name."""
        return self.text.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last name without its suffix."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> URL:
        """The address without the last name."""
        return URL(self.text.rpartition("/")[0])

    def resolve(self) -> URL:
        """The same: it depends on no folder."""
        return self

    def __fspath__(self) -> str:
        raise OSError(errno.ENOTSUP, "only datasets can be in an object store", self.text)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(Path, name):
            self.__fspath__()
        raise AttributeError(name)


@dataclass(frozen=True)
class Bucket:
    """A `Store` in an object store: all objects whose names begin with its own and /."""

    path: URL
    locks: ClassVar[bool] = False

    @contextmanager
    def _at(self, name: str = "") -> Iterator[tuple[Any, Any, str]]:
        """obstore, the driver of the bucket, and the key of a file, of which errors speak."""
        import obstore

        path = self.path / name
        scheme, _, bucket, *key = str(path).split("/")
        driver = _driver(f"{scheme}//{bucket}")
        with said(path):
            yield obstore, driver, "/".join(key)

    def list(self, folder: str = "") -> Sequence[str]:
        """See `Store`."""
        with self._at(folder) as (obstore, driver, key):
            found = obstore.list_with_delimiter(driver, f"{key}/" if key else None)
        names = [item["path"] for item in found["objects"]] + [f"{path}/" for path in found["common_prefixes"]]
        return sorted(name[len(key) + bool(key) :] for name in names)

    def _under(self, name: str) -> Iterator[str]:
        """What follows a name in those of all objects in a folder and the folders in it; nothing of a file."""
        if name and not name.endswith("/"):
            return iter([""])
        with self._at(name) as (obstore, driver, key):
            chunks = list(obstore.list(driver, f"{key}/" if key else None))
        return (item["path"][len(key) + bool(key) :] for chunk in chunks for item in chunk)

    def stat(self, name: str) -> tuple[int, float]:
        """See `Store`."""
        with self._at(name) as (obstore, driver, key):
            facts = obstore.head(driver, key)
        return facts["size"], facts["last_modified"].timestamp()

    def read(self, name: str) -> bytes:
        """See `Store`."""
        with self._at(name) as (obstore, driver, key):
            return bytes(obstore.get(driver, key).bytes())

    def read_tail(self, name: str, size: int) -> bytes:
        """See `Store`."""
        with self._at(name) as (obstore, driver, key):
            return bytes(obstore.get(driver, key, options={"range": {"suffix": size}}).bytes())

    source = read

    def scan_options(self) -> Mapping[str, Any]:
        """See `Store`: the settings of all else, and nothing that polars finds by itself."""
        told = {"allow_http": "true", **settings(str(self.path).partition("/")[0])}
        return {"storage_options": told, "credential_provider": None}

    def create(self, name: str, data: bytes, before: Mapping[str, bytes] | None = None) -> None:
        """See `Store`. If it fails, those before it are left: the answer may be lost, and the file be there."""
        for other, content in (before or {}).items():
            self._put(other, content, "overwrite")
        self._put(name, data, "create")

    def replace(self, name: str, data: bytes) -> None:
        """See `Store`."""
        self._put(name, data, "overwrite")

    def _put(self, name: str, data: bytes, mode: str) -> None:
        with self._at(name) as (obstore, driver, key):
            obstore.put(driver, key, data, mode=mode, use_multipart=False)

    def move(self, name: str, to: str) -> None:
        """See `Store`: each object is copied and then removed, as none can be renamed."""
        to += "/" * name.endswith("/")
        for rest in self._under(name):
            self.create(to + rest, self.read(name + rest))
            self.delete(name + rest)

    def delete(self, name: str) -> None:
        """See `Store`."""
        for rest in self._under(name):
            with suppress(FileNotFoundError), self._at(name + rest) as (obstore, driver, key):
                obstore.delete(driver, key)

    def swap(self, folder: str, groups: Mapping[str, Sequence[str]], joined: Callable[[Sequence[str]], bytes]) -> None:
        """See `Store`. It is not one step: a new object is created before those that it replaces are removed.

        This library's readers pass over objects that a larger one holds too (`parts.superseded`); a plain scan may see
        rows twice for that moment.
        """
        for name, group in groups.items():
            if len(group) > 1:
                self.create(f"{folder}/{name}", joined(group))
                for old in group:
                    self.delete(old)

    def lock(self, name: str, *, exclusive: bool, wait: bool = False) -> AbstractContextManager[Any]:
        """See `Store`: there are none."""
        return nullcontext()

    @contextmanager
    def build(self) -> Iterator[Bucket]:
        """See `Store`. It is built in its place: without dataset.json it is none, and nothing reads it.

        One that is killed leaves what nobody else can tell from a merge at work, so the next is refused.
        """
        found = set(self.list())
        try:
            if found:
                raise FileExistsError
            self.create(BUILDING, b"")
        except FileExistsError as error:
            told = "is there already: choose a new place"
            if not found or (BUILDING in found and "dataset.json" not in found):
                told = "is being merged into, or that was killed: if nobody is at it, remove all that is there"
            raise DatasetError(f"{self.path} {told}") from error
        try:
            yield self
        except BaseException:
            self.delete("")
            raise
        self.delete(BUILDING)
