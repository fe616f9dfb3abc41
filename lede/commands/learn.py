"""`lede learn`."""

from pathlib import Path
from typing import Annotated

import typer

from lede.commands.options import JsonOption
from lede.errors import said_plainly


@said_plainly
def learn(
    dataset: Annotated[Path, typer.Option("--dataset", "-d", help="A dataset's folder.")] = Path("data/lede-tiny"),
    out: Annotated[
        Path | None,
        typer.Option(help="The policy's folder. [dim]Default: policies/<dataset>, with -paper for that preset[/]"),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="default (what decodes fastest) or paper (its recipe to the letter).")
    ] = "default",
    features: Annotated[str | None, typer.Option(help="paper (three numbers) or extended.")] = None,
    horizon: Annotated[str | None, typer.Option(help="walk (a layer walk is a chain) or round.")] = None,
    reward: Annotated[str | None, typer.Option(help="paper, or time (tokens less their time's worth).")] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="Gradient steps.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    json: JsonOption = False,
) -> None:
    """Learn a policy from a dataset's files alone; the model is not needed, nor the machine that they come from.

    [dim]lede learn --dataset data/llama2-7b[/]
    [dim]lede learn --dataset data/lede-tiny --preset paper[/]
    """
    from lede.commands.loading import console, errors
    from lede.paths import policy_path
    from lede.progress import bar

    with errors.status("loading d3rlpy"):
        from learn.config import preset as preset_config
        from learn.train import learn as run
    config = preset_config(preset, features=features, horizon=horizon, reward=reward, updates=updates, seed=seed)
    out = out or policy_path(dataset, preset)
    with bar("learning", 1000, quiet=json) as advance:

        def report(update: int, total: int, loss: float, mean_q: float, validation_reward: float) -> None:
            advance(
                round(update / total * 1000),
                f"update {update:,}/{total:,}  loss {loss:.4f}  Q {mean_q:.3f}  validation {validation_reward:.3f}",
            )

        result = run(dataset, out, config, report)
    if json:
        import json as encoder

        print(encoder.dumps(result.summary()))
        return
    from lede.tables import learning_table

    console.print(learning_table(result))
    console.print(
        f'policy in {out}; next: [bold]lede generate --policy {out} --prompt "def mean(values):"[/] '
        "or [bold]lede bench[/]"
    )
