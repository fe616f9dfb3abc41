"""`lede evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from lede.commands.options import JsonOption
from lede.errors import said_plainly

WIDTH = 110  # columns that the tables need


@said_plainly
def evaluate(
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="A dataset with sweeps.")] = Path("data/lede-tiny"),
    policy: Annotated[
        list[Path] | None,
        typer.Option(help="A policy's folder; may be repeated. [dim]Default: policies/<dataset>, -paper and -exits[/]"),
    ] = None,
    rivals: Annotated[
        bool, typer.Option(help="Also tune the rivals on the training episodes, and score them.")
    ] = True,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Costs of another device (lede calibrate). [dim]Default: those stored with the dataset[/]"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw depth, acceptance and exits into this PNG.")] = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Score policies and rivals offline: exact replay over the sweeps of held-out episodes, beside the best possible.

    Nothing is decoded and no model is loaded: what each rule would do is in the dataset, what it takes in the costs.

    [dim]lede evaluate --dataset data/llama2-7b --policy policies/llama2-7b[/]
    [dim]lede evaluate --calibration laptop.json --plot evaluation.png[/]
    """
    from lede.paths import policy_path
    from lede.terminal import bar, console, errors, print_json, say, warn, wide

    with errors.status("reading the sweeps"):
        from lede.replay.reader import open_dataset
        from lede.serve.policy import load_policy
        from lede.simulate.contenders import contenders, held_out_texts
        from lede.simulate.evaluate import evaluate as run

        opened = open_dataset(dataset)
        if calibration is not None:
            from lede.simulate.calibration import load_calibration

            costs = load_calibration(calibration, opened.header["model"]).costs
        else:
            from lede.simulate.costs import dataset_costs

            costs, _ = dataset_costs(opened)
        presets = {"lede": "default", "lede-paper": "paper", "lede-exits": "exits"}
        usual = {name: policy_path(dataset, preset) for name, preset in presets.items()}
        alike = policy is not None and len({folder.name for folder in policy}) < len(policy)
        folders = (
            {str(folder) if alike else folder.name: folder for folder in policy} if policy
            else {name: folder for name, folder in usual.items() if folder.is_dir()}
        )  # fmt: skip
        policies = {name: load_policy(folder) for name, folder in folders.items()}
        texts, training = held_out_texts(opened)
    if not policies:
        warn(f"without a policy: there is none at {usual['lede']}; lede learn --dataset {dataset} makes one")
    with bar("evaluating", 1000, quiet=json) as advance:

        def tuning(share: float, what: str) -> None:
            advance(round(share * 500), what)

        methods = contenders(opened, policies, training if rivals else None, costs, tuning)
        found = run(texts, costs, methods, lambda done, total: advance(500 + round(done / total * 500), "replaying"))
    if plot is not None:
        from lede.simulate.evaluate_plot import draw

        draw(plot, found, title=f"{opened.header['model']['name']}, {found.texts} test texts, {dataset}")
    if json:
        print_json({"dataset": str(dataset)} | found.to_json())
        return
    from lede.evaluate_tables import ceiling_table, evaluation_table, evaluation_words

    tables = wide(WIDTH)
    tables.print(evaluation_table(found, str(dataset)))
    console.print()
    tables.print(ceiling_table(found))
    for line in evaluation_words(found):
        say(line, "dim")
    if plot is not None:
        say(f"drawn in {plot}")
