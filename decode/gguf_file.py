"""What a GGUF file says of itself: its metadata, and where its tensors lie. Read without numpy, torch or `gguf`.

The format: a header, key-value pairs, a table of tensors, and their numbers, aligned. A model may be split into parts,
NAME-00001-of-00003.gguf …: the first has the metadata, all have tensors.
"""

import mmap
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lede.decode.errors import ModelError

PART = re.compile(r"-(\d{5})-of-(\d{5})$")  # at the end of the name of a part's file
VERSIONS = (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # by kind
STRING, ARRAY = 8, 9


@dataclass(frozen=True)
class Entry:
    """A tensor as the table describes it."""

    shape: tuple[int, ...]  # rows first, as in torch
    kind: int  # of the numbers: a value of gguf.GGMLQuantizationType
    file: Path
    start: int  # of its bytes in the file


@dataclass(frozen=True)
class Content:
    """What a model's file, or all its parts, say of themselves."""

    keys: dict[str, Any]  # the metadata of the first
    tensors: dict[str, Entry] = field(default_factory=dict)


def part_files(file: Path) -> list[Path]:
    """All files of a model, by the name of its first: itself alone where that is no part's."""
    if (named := PART.search(file.stem)) is None:
        return [file]
    base, count = file.stem[: named.start()], named[2]
    return [file.with_name(f"{base}-{number:05}-of-{count}{file.suffix}") for number in range(1, int(count) + 1)]


def read_content(file: Path) -> Content:
    """What a GGUF file and the parts beside it say of themselves. Raises ModelError where that cannot be read."""
    files = part_files(file)
    for number, part in enumerate(files, 1):
        if not part.is_file():
            raise ModelError(f"{file.name} is a model in {len(files)} parts, and {part.name} is not beside it")
        if number == 1 and part != file:
            raise ModelError(f"{file.name} is not the first part of its model: give {part.name}")
    whole = Content(_Reader(files[0]).keys())
    for number, part in enumerate(files, 1):
        reader = _Reader(part)
        keys = reader.keys()
        place = keys.get("split.no", 0) + 1, keys.get("split.count", 1) or 1
        if place != (number, len(files)):
            raise ModelError(
                f"{part.name} says that it is part {place[0]} of {place[1]}: give the parts the names that they were "
                f"made with, such as NAME-00001-of-{place[1]:05}.gguf, in one folder"
            )
        for name, entry in reader.tensors(keys.get("general.alignment", 32)).items():
            if name in whole.tensors:
                raise ModelError(f"{part.name} has the tensor {name}, which was there before")
            whole.tensors[name] = entry
    return whole


class _Reader:
    """Reads a file from its beginning: `keys`, then `tensors`."""

    def __init__(self, file: Path):
        self.file, self.at = file, 0
        with file.open("rb") as opened:
            empty = file.stat().st_size == 0
            self.content: Any = b"" if empty else mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        if self.content[:4] != b"GGUF":
            raise ModelError(f"{file} is not a GGUF file: those begin with the letters GGUF")
        self.at = 4
        version = self.number("I")
        if version & 0xFFFF == 0:
            raise ModelError(f"{file.name} is a big-endian GGUF file: only little-endian ones are read")
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise ModelError(f"{file.name} is a GGUF file of version {version}: versions {known} are read")
        self.tensor_count, self.key_count = self.number("Q"), self.number("Q")

    def keys(self) -> dict[str, Any]:
        """The metadata."""
        keys: dict[str, Any] = {}
        for _ in range(self.key_count):
            name = self.text()
            if name in keys:
                raise ModelError(f"{self.file.name} says twice what {name} is")
            keys[name] = self.value(name, self.number("I"))
        return keys

    def tensors(self, alignment: int) -> dict[str, Entry]:
        """The table of tensors, which follows the metadata."""
        table = []
        for _ in range(self.tensor_count):
            name = self.text()
            shape = self.numbers("Q", self.number("I"))
            table.append((name, shape[::-1], self.number("I"), self.number("Q")))
        data = -(-self.at // alignment) * alignment
        return {name: Entry(shape, kind, self.file, data + start) for name, shape, kind, start in table}

    def value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == ARRAY:
            kind, count = self.number("I"), self.number("Q")
            if kind in NUMBERS:
                return list(self.numbers(NUMBERS[kind], count))
            return self.texts(count) if kind == STRING else [self.value(key, kind) for _ in range(count)]
        raise ModelError(f"{self.file.name} has a value of the unknown kind {kind} at {key}: is the file whole?")

    def number(self, form: str) -> Any:
        return self.numbers(form, 1)[0]

    def numbers(self, form: str, count: int) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{form}")
        return struct.unpack(f"<{count}{form}", self.take(count * size))

    def text(self) -> str:
        return self.texts(1)[0]

    def texts(self, count: int) -> list[str]:
        """Vocabularies have hundreds of thousands: the one loop here that has to be quick."""
        texts, content, at, length = [], self.content, self.at, struct.Struct("<Q").unpack_from
        try:
            for _ in range(count):
                end = at + 8 + length(content, at)[0]
                texts.append(content[at + 8 : end].decode())
                at = end
        except struct.error:
            self.at = len(content) + 1
        except UnicodeDecodeError:
            raise ModelError(f"{self.file.name} has a text that is not UTF-8: is the file whole?") from None
        self.at = max(self.at, at)
        self.take(0)
        return texts

    def take(self, length: int) -> bytes:
        """So many bytes. Raises ModelError where the file has not so many."""
        end = self.at + length
        if end > len(self.content):
            raise ModelError(f"{self.file.name} is cut off: it has {len(self.content):,} bytes, and its header more")
        taken: bytes = self.content[self.at : end]
        self.at = end
        return taken
