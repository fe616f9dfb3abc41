"""What all rows of a dataset have in common: dataset.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lede.replay.errors import DatasetError
from lede.replay.folder import write_json
from lede.replay.schema import FORMAT
from lede.replay.storage import place

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
    root = place(path)
    wanted = json.loads(json.dumps({"format": FORMAT, **header}))  # tuples become lists, as they will be read
    if not (root / HEADER).exists():
        names = [entry.name for entry in root.iterdir()] if root.is_dir() else []
        # The second look: another shard may have made the dataset between the first and the listing.
        if any(not name.startswith(".") and name != VOCABULARY for name in names) and not (root / HEADER).exists():
            raise DatasetError(f"{root} is neither empty nor a dataset (it has no {HEADER}): choose another folder")
        if draft_vocabulary is not None:
            write_json(root / VOCABULARY, {"tokens": list(draft_vocabulary)})
        write_json(root / HEADER, wanted)
    found = load_header(root)
    if differences := header_differences(wanted, found):
        told = "; ".join(differences)
        same = " or the same --exits and --draft-vocab" * any(f"model.{name}" in told for name in DRAFTING)
        raise DatasetError(f"{root} holds other data: {told}. Choose another --out{same}")


def load_header(root: Path) -> dict[str, Any]:
    """Read `dataset.json`. Raises `DatasetError` if there is none or it is from a newer version."""
    if not root.is_dir():
        raise DatasetError(f"{root} does not exist: collect a dataset first (lede collect)")
    if not (root / HEADER).is_file():
        raise DatasetError(f"{root} is not a dataset, it has no {HEADER}")
    header = read_json(root / HEADER)
    made = header.get("format")
    if not isinstance(made, int) or not 1 <= made <= FORMAT:
        from importlib.metadata import version

        needed = f"lede {header['needs']} or later" if "needs" in header else "another version"
        told = f"has format {made}, this version ({version('lede')}) reads {FORMAT}: it needs {needed}, update lede"
        raise DatasetError(f"{root / HEADER} {told}")
    if "layers" not in header or not isinstance(header.get("model"), dict):
        raise DatasetError(f"{root / HEADER} lacks model or layers: restore it from a copy")
    return header


def common_header(roots: Sequence[Path]) -> dict[str, Any]:
    """The first dataset's header. Raises `DatasetError` if the others' do not fit it."""
    header = load_header(roots[0])
    for root in roots:
        if differences := header_differences(load_header(root), header):
            raise DatasetError(f"{root} does not fit {roots[0]}: {'; '.join(differences)}")
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


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """The object in a JSON file. Raises `DatasetError` if it is damaged or lacks one of `keys`."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} is not JSON ({error}): restore it from a copy") from error
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise DatasetError(f"{path} is not a JSON object with {', '.join(keys)}: restore it from a copy")
    return content
