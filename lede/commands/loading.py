"""Loading a model for a command: with something to look at while it takes its time."""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import BadParameter

from lede.commands.options import Runtime
from lede.paths import dataset_path, exits_folder, model_path, policy_path, usual_policy
from lede.terminal import errors, warn

if TYPE_CHECKING:
    from lede.decode.model import Model
    from lede.policy import Policy

AUTO = Runtime()


def check_model(model: str | None, runtime: Runtime = AUTO) -> Path | None:
    """`decode.checkpoint.check_request`: ModelError for what can be known to be wrong before torch is imported."""
    from lede.decode.checkpoint import check_request

    path = check_request(model_path(model), runtime.dtype, runtime.device)
    exits_folder(model, runtime.exits)
    return path


def chosen_policy(model: str | None, folder: Path | None, plain: bool = False) -> "Policy | None":
    """The policy in a folder, else the model's usual one; None if `plain`, and, with a word on it, without one."""
    from lede.policy import load_policy

    if plain and folder is not None:
        raise BadParameter("--plain and --policy exclude each other")
    if plain:
        return None
    folder = folder or usual_policy(model)
    if folder is None:
        usual = policy_path(dataset_path(model))
        warn(f"no policy at {usual}: plain decoding (lede collect and lede learn make one)", "dim")
        return None
    return load_policy(folder)


def other_costs(policy: "Policy", here: Mapping[str, Any]) -> str | None:
    """That a policy was learned with another device's costs, or another number of threads', in a line; else None.

    here: `device_facts` of what it is used on. A policy that was learned without costs does not tell.
    """
    there = policy.info.get("device") or {}
    names = [name for name in ("type", "name", "threads") if name in there and there[name] != here.get(name)]
    if not names or (names == ["threads"] and here["type"] != "cpu"):
        return None
    told = [f"{one.get('name')}, {one.get('threads')} threads" for one in (there, here)]
    if names == ["threads"]:
        told = [f"{one['threads']} threads" for one in (there, here)]
    return f"the policy was learned with the costs of {told[0]}, not of {told[1]}: learned with these it may be faster"


def warn_of_costs(model: "Model", *policies: "Policy | None") -> None:
    """`other_costs` of the policies that a model decodes with, once."""
    from lede.decode.device import device_facts

    here = device_facts(model.device)
    for line in dict.fromkeys(other_costs(policy, here) for policy in policies if policy is not None):
        if line is not None:
            warn(line, "dim")


def usual_task(model: str | None) -> str:
    """The prompts for a model when none are named: chat where it has a chat template."""
    from lede.decode.config import chat_template
    from lede.decode.gguf import has_chat_template

    folder = check_model(model)
    chats = folder is not None and (has_chat_template(folder) if folder.is_file() else chat_template(folder))
    return "chat" if chats else "stdlib"


def checkpoint(model: str | None) -> str:
    """The folder or name from which `transformers` loads the model, converted before if need be."""
    folder = check_model(model)
    if folder is not None and folder.is_file():
        with errors.status(f"converting {folder.name} (once)"):
            from lede.decode.gguf import convert

            folder = convert(folder)
    return str(folder or model_path(model))


def usual_vocabulary(dataset: Path, policy: "Policy | None" = None) -> Sequence[int] | None:
    """The draft vocabulary that the policy, else the dataset, has its states from; empty: all. None without either."""
    if policy is not None:
        return policy.draft_vocabulary or ()
    from lede.replay.header import HEADER
    from lede.replay.reader import open_dataset
    from lede.replay.store import open_store, present

    return open_dataset(dataset).draft_vocabulary or () if present(open_store(dataset), HEADER) else None


def load_for(model: str | None, runtime: Runtime, *policies: "Policy | None") -> "Model":
    """The model, drafting what the first policy learned from, with a word where one learned from other costs."""
    first = next(iter(policies), None)
    loaded = load(model, runtime, None if first is None else first.draft_vocabulary or ())
    warn_of_costs(loaded, *policies)
    return loaded


def load(model: str | None, runtime: Runtime, draft_vocabulary: Sequence[int] | None = None) -> "Model":
    """The model with its exit heads, on the device, with the number of CPU threads set.

    draft_vocabulary: ascending token ids, empty for all; None: what the exit heads have.
    """
    path = check_model(model, runtime)
    once = f"converting {path.name} (once) and " if path is not None and path.is_file() else ""
    with errors.status(f"{once}loading torch and the model"):
        from lede.decode.threads import use_threads
        from lede.loading import load_model

        loaded = load_model(model, runtime.dtype, runtime.device, None, runtime.exits, draft_vocabulary)
        use_threads(loaded, runtime.threads)
    # What the imports left behind is millions of objects that live as long as the process. Without this the collector
    # walks all of them now and then, and a generation stalls for a tenth of a second.
    gc.freeze()
    return loaded
