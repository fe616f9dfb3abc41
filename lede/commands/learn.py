"""`lede learn`."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from lede.commands.options import JsonOption, parse_layers
from lede.errors import said_plainly


@said_plainly
def learn(
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="A dataset's folder.")] = Path("data/lede-tiny"),
    out: Annotated[
        Path | None,
        typer.Option(
            help="The policy's folder. [dim]Default: policies/<dataset>, with -paper for that preset, "
            "-<name> for --variants NAME.toml[/]"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="fitted (from sweeps: what decodes fastest), dqn or paper (its recipe to the letter). "
            "[dim]Default: fitted where the dataset has sweeps and no option asks for a Q-learner, else dqn[/]"
        ),
    ] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="dqn, double_dqn, cql, bcq, qr_dqn, iqn, or fitted (from sweeps).")
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(help="paper, accepted, time (tokens less their time's worth), or FILE.py with a function reward."),
    ] = None,
    features: Annotated[str | None, typer.Option(help="paper (three numbers) or extended.")] = None,
    horizon: Annotated[str | None, typer.Option(help="walk (a layer walk is a chain) or round.")] = None,
    candidates: Annotated[
        str | None,
        typer.Option(help="Some of the dataset's candidates, as 0,4,6; 0 may be added to a swept one."),
    ] = None,
    bypass: Annotated[
        bool | None, typer.Option("--bypass", help="Let a round draft nothing: go on to the full model.")
    ] = None,
    max_drafts: Annotated[int | None, typer.Option(help="Drafts a round; the paper has 12.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Discount a decision.")] = None,
    n_steps: Annotated[int | None, typer.Option("--n-step", min=1, help="Steps of the n-step return.")] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="Gradient steps.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    variants: Annotated[
        Path | None, typer.Option(help="A TOML file with lists of values of these options: learn and rank them all.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Learn a policy from a dataset's files alone; the model is not needed, nor the machine that they come from.

    [dim]lede learn --dataset data/llama2-7b[/]
    [dim]lede learn --dataset data/lede-tiny --preset paper[/]
    [dim]lede learn --reward accepted --candidates 0,4 --bypass --out policies/mine[/]
    [dim]lede learn --variants docs/variants.toml[/]
    """
    options: dict[str, Any] = {
        "algorithm": algorithm, "reward": reward, "features": features, "horizon": horizon,
        "candidates": parse_layers(candidates), "bypass": bypass, "max_drafts": max_drafts, "gamma": gamma,
        "n_steps": n_steps, "updates": updates, "seed": seed,
    }  # fmt: skip
    if variants is None:
        _learn_one(dataset, out, preset, options, json)
        return
    given = [name for name, value in options.items() if value is not None] + ["preset"] * (preset is not None)
    if given:
        raise typer.BadParameter(f"with --variants, options are given in the file: write {', '.join(given)} there")
    _learn_grid(dataset, out, variants, json)


def _learn_one(dataset: Path, out: Path | None, preset: str | None, options: dict[str, Any], json: bool) -> None:
    from lede.paths import policy_path
    from lede.terminal import bar, console, errors, print_json, say

    with errors.status("loading d3rlpy"):
        from lede.learn.config import preset as preset_config
        from lede.learn.config import usual_preset
        from lede.learn.train import learn as run
        from lede.replay.reader import open_dataset
    config = preset_config(preset or usual_preset(len(open_dataset(dataset).swept()) > 0, **options), **options)
    out = out or policy_path(dataset, "paper" if preset == "paper" else "default")
    with bar("learning", 1000, quiet=json) as advance:

        def report(update: int, total: int, loss: float, mean_q: float, validation_reward: float) -> None:
            known = {"loss": loss, "Q": mean_q, "validation": validation_reward}
            words = "  ".join(f"{name} {value:.3f}" for name, value in known.items() if not math.isnan(value))
            advance(round(update / total * 1000), f"update {update:,}/{total:,}  {words}")

        result = run(dataset, out, config, report)
    if json:
        print_json(result.summary())
        return
    from lede.learning_tables import learning_table

    console.print(learning_table(result))
    say(f'policy in {out}; next: lede generate --policy {out} --prompt "def mean(values):" or lede bench')


def _learn_grid(dataset: Path, out: Path | None, file: Path, json: bool) -> None:
    from lede.paths import policy_path
    from lede.terminal import bar, console, errors, print_json, say

    with errors.status("loading d3rlpy"):
        from lede.learn.grid import read_grid
        from lede.learn.ranking import rank, to_json, write_ranking
        from lede.learn.variants import run_grid
    grid = read_grid(file)
    out = out or policy_path(dataset, file.stem)
    with bar("learning", 1000, quiet=json) as advance:
        results = run_grid(dataset, grid, out, advance)
    rows = rank(results)
    write_ranking(out, rows, results)
    if json:
        print_json(to_json(rows, results))
        return
    from lede.learning_tables import ranking_table

    console.print(ranking_table(rows, results))
    for row in rows:
        if row.message:
            say(f"{row.name}: {row.message}", "red")
    if rows[0].folder:
        say(f"ranking.json and ranking.png in {out}; the best policy is {out / rows[0].folder}")
