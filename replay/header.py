"""What all rows of a dataset have in common: dataset.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lede.replay.errors import DatasetError
from lede.replay.schema import FORMAT
from lede.replay.store import File, Store, open_store, present

HEADER = "dataset.json"
VOCABULARY = "draft_vocabulary.json"  # the tokens that could be drafted, where not all could
DRAFTING = {"exits", "draft_vocabulary"}  # of a model: what its early layers draft with, if not its own head


def open_for_writing(
    path: str | os.PathLike[str], header: Mapping[str, Any], draft_vocabulary: Sequence[int] | None = None
) -> None:
    """Create a dataset, or check that the one at `path` can take rows described by `header`.

    `header`: model {name, revision, config_hash, layers, vocab, …}, tokenizer_hash, layers (candidates), top_k, trace.
    draft_vocabulary: the token ids that `model.draft_vocabulary` names. What a dataset of an older version does not say
    of its model is not compared, but for what it drafted with. Raises `DatasetError` naming every field that differs,
    or if `path` holds something else; `OSError`.
    """
    store = open_store(path)
    wanted = json.loads(json.dumps({"format": FORMAT, **header}))  # tuples become lists, as they will be read
    if HEADER not in (names := store.list()):
        # The second look: another shard may have made the dataset while the first listed.
        if any(name[0] != "." and name != VOCABULARY for name in names) and not present(store, HEADER):
            raise DatasetError(
                f"{store.path} is neither empty nor a dataset (it has no {HEADER}): choose another folder"
            )
        drafted = {} if draft_vocabulary is None else {VOCABULARY: to_json({"tokens": list(draft_vocabulary)})}
        with suppress(FileExistsError):  # what was first stays, and is compared
            store.create(HEADER, to_json(wanted), before=drafted)
    found = load_header(store)
    if differences := header_differences(wanted, found):
        told = "; ".join(differences)
        same = " or the same --exits and --draft-vocab" * any(f"model.{name}" in told for name in DRAFTING)
        raise DatasetError(f"{store.path} holds other data: {told}. Choose another --out{same}")


def load_header(store: Store) -> dict[str, Any]:
    """Read `dataset.json`. Raises `DatasetError` if there is none or it is from a newer version."""
    if HEADER not in (names := store.list()):
        if not names:
            raise DatasetError(f"{store.path} does not exist or is empty: collect a dataset first (lede collect)")
        raise DatasetError(f"{store.path} is not a dataset, it has no {HEADER}")
    file = File(store, HEADER)
    header = read_json(file)
    made = header.get("format")
    if not isinstance(made, int) or not 1 <= made <= FORMAT:
        from importlib.metadata import version

        needed = f"lede {header['needs']} or later" if "needs" in header else "another version"
        told = f"has format {made}, this version ({version('lede')}) reads {FORMAT}: it needs {needed}, update lede"
        raise DatasetError(f"{file} {told}")
    if "layers" not in header or not isinstance(header.get("model"), dict):
        raise DatasetError(f"{file} lacks model or layers: restore it from a copy")
    return header


def common_header(stores: Sequence[Store]) -> dict[str, Any]:
    """The first dataset's header. Raises `DatasetError` if the others' do not fit it."""
    header = load_header(stores[0])
    for store in stores:
        if differences := header_differences(load_header(store), header):
            raise DatasetError(f"{store.path} does not fit {stores[0].path}: {'; '.join(differences)}")
    return header


def header_differences(wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """What keeps rows out of one dataset: every field that differs, but facts of the model that only one header has."""
    compared = wanted["model"].keys() & stored["model"].keys() | DRAFTING
    facts = ({key: value for key, value in header["model"].items() if key in compared} for header in (wanted, stored))
    return describe_differences({**wanted, "model": next(facts)}, {**stored, "model": next(facts)})


def describe_differences(wanted: Mapping[str, Any], stored: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One `field is … there, … here` for every leaf in which two JSON objects differ."""
    lines = []
    for key in sorted(wanted.keys() | stored.keys()):
        ours, theirs = wanted.get(key), stored.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            lines += describe_differences(ours, theirs, f"{prefix}{key}.")
        elif ours != theirs:
            lines.append(f"{prefix}{key} is {json.dumps(theirs)} there, {json.dumps(ours)} here")
    return lines


def to_json(content: object) -> bytes:
    """A JSON file, for people also."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def read_json(file: File, *keys: str) -> dict[str, Any]:
    """The object in a JSON file. Raises `DatasetError` if it is damaged or lacks one of `keys`."""
    try:
        content = json.loads(file.read().decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{file} is not JSON ({error}): restore it from a copy") from error
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise DatasetError(f"{file} is not a JSON object with {', '.join(keys)}: restore it from a copy")
    return content
