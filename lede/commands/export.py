"""`lede export`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from lede.commands import options as shared
from lede.errors import said_plainly

DATA = {  # forms of a dataset, and what reads them
    "csv": 'polars.read_csv("{out}/transitions.csv")',
    "hf": 'datasets.load_dataset("{out}", "transitions")',
    "d3rlpy": 'd3rlpy.dataset.ReplayBuffer.load(open("{out}/{side}.h5", "rb"), d3rlpy.dataset.InfiniteBuffer())',
    "minari": "MINARI_DATASETS_PATH={out} minari list local",
}


@said_plainly
def export(
    out: Annotated[Path, Argument(help="The folder to write.")],
    to: Annotated[
        str,
        Option("--to", help="What is to use it: transformers (a policy); csv, hf (datasets), d3rlpy or minari (data)."),
    ] = "transformers",
    policy: shared.PolicyOption = None,
    model: shared.ModelOption = None,
    dataset: Annotated[
        Path | None, Option("--dataset", "-d", help="A dataset's folder. [dim]Default: data/lede-tiny[/]")
    ] = None,
) -> None:
    """Write a policy as a folder with which the generate of transformers decodes, or a dataset in another form.

    [dim]lede export generate-lede --to transformers[/]
    [dim]lede export generate-lede --model smollm2 --policy policies/smollm2[/]
    [dim]model.generate(**inputs, custom_generate="generate-lede", trust_remote_code=True)[/]
    [dim]lede export decisions --to hf --dataset data/llama2-7b[/]
    """
    if shared.one_of("--to", to, "transformers", *DATA) in DATA:
        if policy is not None or model is not None:
            raise BadParameter(f"--to {to} writes a dataset: --policy and --model are for transformers")
        return _data(dataset or Path("data/lede-tiny"), to, out)
    if dataset is not None:
        raise BadParameter(f"--to {to} writes a policy: --dataset is for {', '.join(DATA)}")
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


def _data(dataset: Path, form: str, out: Path) -> None:
    from lede.replay.reader import open_dataset
    from lede.replay.split import SPLITS
    from lede.terminal import errors, say

    opened = open_dataset(dataset)
    with errors.status(f"writing {out}"):
        if form in ("csv", "hf"):
            from lede.replay.export import to_csv, to_hf

            (to_csv if form == "csv" else to_hf)(opened, out)
        else:
            from lede.learn.export import to_d3rlpy, to_minari

            (to_d3rlpy if form == "d3rlpy" else to_minari)(opened, out)
    side = next((side for side in SPLITS if (out / f"{side}.h5").exists()), None)
    say(f"{dataset} is in {out}: {DATA[form].format(out=out, side=side)}")
