"""`lede push`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from lede.errors import said_plainly


@said_plainly
def push(
    folder: Annotated[Path, Argument(help="A policy, exit heads or a dataset.")],
    name: Annotated[str, Argument(help="The repository on the hub, as organisation/name.")],
    private: Annotated[bool, Option("--private", help="A new repository is for its owner alone.")] = False,
) -> None:
    """Upload a policy, exit heads or a dataset to the Hugging Face hub; hf://NAME then stands for it as a folder.

    [dim]lede push policies/smollm2 me/smollm2-policy[/]
    [dim]lede generate --model smollm2 --policy hf://me/smollm2-policy --prompt "Hello"[/]
    """
    from lede.hub import push as run
    from lede.terminal import errors, say

    with errors.status(f"uploading {folder}"):
        where = run(folder, name, private)
    say(f"pushed to {where}")
