"""`lede evaluate`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from lede.commands.options import JsonOption, PoliciesOption, named_policies
from lede.errors import said_plainly

if TYPE_CHECKING:
    from lede.policy import Policy
    from lede.replay.reader import Dataset
    from lede.simulate.costs import Costs
    from lede.simulate.evaluate import Method


@said_plainly
def evaluate(
    dataset: Annotated[Path, Option("--dataset", "-d", help="A dataset with sweeps.")] = Path("data/lede-tiny"),
    policy: PoliciesOption = None,
    rivals: Annotated[bool, Option(help="Also tune the baselines on training texts, and score them.")] = True,
    calibration: Annotated[
        Path | None,
        Option(help="Costs of another device (lede calibrate). [dim]Default: those stored with the dataset[/]"),
    ] = None,
    plot: Annotated[Path | None, Option(help="Draw depth, acceptance and exits into this PNG.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score policies and baselines offline: exact replay over the sweeps of test texts, beside the best possible.

    Nothing is decoded and no model is loaded: what each rule would do is in the dataset, what it takes in the costs.

    [dim]lede evaluate --dataset data/llama2-7b --policy policies/llama2-7b[/]
    [dim]lede evaluate --calibration laptop.json --plot evaluation.png[/]
    """
    from lede.commands.loading import other_costs
    from lede.paths import usual_policies
    from lede.replay.pictures import check_format
    from lede.terminal import bar, console, errors, print_json, say, warn, wide

    given = named_policies(policy)
    if plot is not None:
        check_format(plot)
    with errors.status("reading the sweeps"):
        from lede.policy import load_policy
        from lede.replay.reader import open_dataset

        opened = open_dataset(dataset)
        costs, whose, device = _costs(opened, calibration)
        usual = usual_policies(opened.name)
        folders = given or {name: folder for name, folder in usual.items() if folder.is_dir()}
        loaded = {name: load_policy(folder) for name, folder in folders.items()}

        from lede.simulate.evaluate import evaluate as run
        from lede.simulate.evaluate import read_sides, tuned_baselines

        policies = policy_methods(opened, loaded)
        sides = read_sides(opened)
    if not policies:
        warn(f"without a policy: there is none at {usual['lede']}; lede learn --dataset {dataset} makes one")
    for name, one in loaded.items():
        if device and (line := other_costs(one, device)) is not None:
            warn(f"{name}: {line}")
    with bar("evaluating", 1000, quiet=as_json) as advance:
        baselines = []
        if rivals:
            baselines = tuned_baselines(sides.training, costs, lambda share, what: advance(round(share * 500), what))
        evaluation = run(
            sides.test,
            costs,
            baselines + policies,
            sides.groups,
            lambda done, total: advance(500 + round(done / total * 500), "replaying"),
        )
    if plot is not None:
        from lede.simulate.baselines import BASELINES
        from lede.simulate.plot import Drawn, draw

        drawn = []
        for row in evaluation.rows:
            speedup = row.predicted_speedup, row.predicted_low, row.predicted_high
            ours = row.method not in ("autoregressive", *BASELINES)
            drawn.append(Drawn(row.method, *speedup, row.exit_layer, row.acceptance, row.exits or {}, ours))
        title = f"{opened.header['model']['name']}, {evaluation.texts} test texts, {dataset}"
        about = "predicted speedup, 95 % interval over groups of texts; dashed: the oracle"
        draw(plot, drawn, title, about, evaluation.oracle_speedup)
    if as_json:
        print_json({"dataset": str(dataset), "costs": whose} | asdict(evaluation))
        return
    from lede.tables import EVALUATION_WORDS, ceiling_table, evaluation_table

    tables = wide()
    tables.print(evaluation_table(evaluation, str(dataset)))
    console.print()
    tables.print(ceiling_table(evaluation))
    say(EVALUATION_WORDS, "dim")
    say(whose, "dim")
    if evaluation.doubt:
        say(evaluation.doubt, "yellow")
    if plot is not None:
        say(f"drawn in {plot}")


def _costs(dataset: "Dataset", calibration: Path | None) -> "tuple[Costs, str, dict[str, Any] | None]":
    """What to charge, whose costs these are in a line, and their device."""
    if calibration is None:
        from lede.simulate.costs import costs_device, dataset_costs

        return *dataset_costs(dataset), costs_device(dataset)
    from lede.simulate.calibration import load_calibration

    measured = load_calibration(calibration, dataset.header["model"])
    words = f"costs: {calibration}, {measured.device.get('name')}, {measured.dtype}, {measured.measured}"
    return measured.costs, words, measured.device


def policy_methods(dataset: "Dataset", policies: "dict[str, Policy]") -> "list[Method]":
    """The policies as rules. Raises PolicyError for one of another model, or with layers that were not swept."""
    from lede.decode.rules import QPolicy
    from lede.policy import PolicyError, check_fits
    from lede.simulate.evaluate import Method

    for name, policy in policies.items():
        check_fits(policy, dataset.header["model"])
        if unknown := sorted({*policy.layers} - {0, *dataset.layers, dataset.model_layers}):
            raise PolicyError(
                f"the policy {name} exits at layers {', '.join(map(str, unknown))}, but {dataset.path} was swept at "
                f"layers {', '.join(map(str, dataset.layers))} only: evaluate it on the dataset it was learned from"
            )
    return [Method(name, QPolicy(policy, name)) for name, policy in policies.items()]
