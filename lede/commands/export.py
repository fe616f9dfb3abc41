"""`lede export`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from lede.commands import options as shared
from lede.errors import said_plainly


@said_plainly
def export(
    out: Annotated[Path, Argument(help="The folder to write.")],
    to: Annotated[str, Option("--to", help="What is to use it: transformers.")] = "transformers",
    policy: shared.PolicyOption = None,
    model: shared.ModelOption = None,
) -> None:
    """Write a policy as a folder with which the generate of transformers decodes.

    [dim]lede export generate-lede --to transformers[/]
    [dim]lede export generate-lede --model smollm2 --policy policies/smollm2[/]
    [dim]model.generate(**inputs, custom_generate="generate-lede", trust_remote_code=True)[/]
    """
    if to != "transformers":
        raise BadParameter(f"--to {to}: give transformers")
    if out.exists() and not out.is_dir():
        raise BadParameter(f"{out} is a file: name a folder")

    from lede.commands.loading import check_model, chosen_policy
    from lede.paths import model_name

    check_model(model)
    learned = chosen_policy(model, policy)

    from lede.serve.custom_generate import export as write
    from lede.terminal import say

    write(out, learned, model_name(model))
    say(f'written: model.generate(**inputs, custom_generate="{out}", trust_remote_code=True)')
