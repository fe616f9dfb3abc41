"""Policies, exit heads and datasets on a model hub: pushed, and fetched where hf://NAME stands for a folder."""

import json
from pathlib import Path
from typing import Any

from lede.ground import UserError, first_line

# What a folder is by the file in it: in words, the hub's kind of repository, and how its card says to use it.
KINDS = {
    "policy.json": ("policy", "model", "lede generate --policy hf://{name}"),
    "exits.json": ("exit heads", "model", "lede generate --exits hf://{name}"),
    "dataset.json": ("dataset", "dataset", "lede learn --dataset hf://{name}"),
}


class HubError(UserError):
    """What the hub, or the way to it, does not let its user do."""


def push(folder: Path, name: str, private: bool = False) -> str:
    """Upload a folder as the repository `name` (organisation/name), with a card if it has none. Returns its address.

    Raises HubError.
    """
    found = next((file for file in KINDS if (folder / file).is_file()), None)
    if found is None:
        raise HubError(f"{folder} is no policy, exit heads or dataset: none of {', '.join(KINDS)} is in it")
    what, kind, use = KINDS[found]
    from huggingface_hub import HfApi

    api = HfApi()
    given: dict[str, Any] = {"repo_id": name, "repo_type": kind}
    try:
        url = api.create_repo(**given, private=private or None, exist_ok=True)
        if not (folder / "README.md").is_file():
            card = _card(what, use.format(name=name), json.loads((folder / found).read_text("utf-8")))
            api.upload_file(path_or_fileobj=card.encode(), path_in_repo="README.md", **given)
        api.upload_folder(folder_path=folder, ignore_patterns=[".*", "*/.*", "*.tmp", "*.new"], **given)
    except Exception as error:  # the library, and what it sends with, have dozens of kinds
        raise HubError(f"cannot push to {name}: {first_line(error)} (hf auth login gives a token)") from error
    return str(url)


def fetched(value: Path) -> Path:
    """The copy in the hub's cache of what hf://NAME, as a path, stands for, fetched if need be. Raises HubError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    name = "/".join(value.parts[1:])
    try:
        try:
            return Path(snapshot_download(name))
        except (RepositoryNotFoundError, LocalEntryNotFoundError):  # the second: offline, and no such model is cached
            return Path(snapshot_download(name, repo_type="dataset"))
    except Exception as error:
        raise HubError(f"cannot fetch hf://{name}: {first_line(error)}") from error


def _card(what: str, use: str, facts: dict[str, Any]) -> str:
    """What a folder is, for which model, and how it is used."""
    model = facts.get("model", {})
    model = model if isinstance(model, dict) else {"name": model, "weights_hash": facts.get("weights_hash")}
    rows = "".join(f"| {key} | {value} |\n" for key, value in model.items() if isinstance(value, str | int))
    return f"---\ntags: [lede]\n---\n# A {what} of lede\n\n    {use}\n\n| model | |\n|---|---|\n{rows}"
