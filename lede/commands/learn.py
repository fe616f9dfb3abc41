"""`lede learn`."""

import math
import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from lede.commands.from_config import Given, from_config
from lede.commands.options import JsonOption
from lede.errors import said_plainly
from lede.learn.config import LearnConfig
from lede.learn.config import preset as preset_config
from lede.paths import EMBEDDED, SMOLLM2, policy_path

if TYPE_CHECKING:
    from lede.replay.reader import Dataset


@said_plainly
@from_config
def learn(
    *,
    dataset: Annotated[
        list[Path] | None,
        Option(
            "--dataset",
            "-d",
            help="A dataset's folder or URL; given again, others of the same model and layers, learned from as one. "
            "[dim]Default: data/lede-tiny[/]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            help="The policy's folder. [dim]Default: policies/<dataset>, with the preset and options that are given "
            "behind it (-paper, -dqn-no-bypass)[/]"
        ),
    ] = None,
    preset: Annotated[
        str | None,
        Option(
            help="Other defaults than those below: paper (its recipe to the letter) or fitted (an upper bound). "
            "[dim]Default: double DQN[/]"
        ),
    ] = None,
    options: Annotated[Given, LearnConfig],
    as_json: JsonOption = False,
) -> None:
    """Learn a policy from a dataset's files alone; the model is not needed, nor the machine that they come from.

    [dim]lede learn --dataset data/llama2-7b[/]
    [dim]lede learn --dataset data/lede-tiny --preset paper[/]
    [dim]lede learn --dataset data/large --memory 4GB[/]
    [dim]lede learn --dataset s3://bucket/llama2-7b[/]
    [dim]lede learn --reward accepted --candidates 0,4 --out policies/mine[/]
    """
    from lede.replay.reader import open_dataset
    from lede.terminal import bar, console, errors, print_json, say

    if "reward" in options:
        options["reward"] = os.path.expanduser(options["reward"])  # a file's path, or a name
    config = preset_config(preset or "default", **options)
    # now, so that what is wrong with it is said before what is slow is imported
    opened = open_dataset(*(dataset or [Path("data/lede-tiny")]))
    with errors.status("loading d3rlpy"):
        from lede.learn.data import Snapshot
        from lede.learn.score import Score
        from lede.learn.train import learn as run
    out = out or policy_path(opened.name, _recipe(preset, options))
    with bar("learning", 1000, quiet=as_json) as advance:

        def report(step: Snapshot, score: Score) -> None:
            told = {"loss": step.loss, "validation tokens/ms": score.rate, "reward": score.reward}
            words = "  ".join(f"{name} {value:.3f}" for name, value in told.items() if not math.isnan(value))
            advance(round(step.update / step.total * 1000), f"update {step.update:,}/{step.total:,}  {words}")

        result = run(opened, out, config, report)
    if as_json:
        print_json(result.summary())
        return
    from lede.tables import learning_table

    console.print(learning_table(result))
    if left_out := result.data.left_out:
        layers = ", ".join(map(str, left_out))
        say(f"left out: layers {layers}, where no fixed draft length beats plain decoding (--candidates takes them)")
    if (parts := len(result.data.windows)) > 1:
        say(f"learned from {parts} parts of the dataset, one after the other; scored on the first part's texts")
        turns = result.history[-1]["update"] // result.data.config.score_every
        if parts > turns:
            say(f"only {turns} had a turn: more --updates, or more --memory, learn from all", "yellow")
    if result.data.costs_from:
        say(result.data.costs_from)
    say(f"policy in {out}; next: {_next(opened, out)}")


def _next(dataset: "Dataset", out: Path) -> str:
    """Commands that take the policy, with the model that it is for."""
    name, policy = dataset.header["model"]["name"], f"--policy {quote(str(out))}"
    known = {EMBEDDED: "", SMOLLM2: f" --model {SMOLLM2}"}
    model = known.get(name, known.get(dataset.name, " --model MODEL"))
    where = f" (MODEL: the folder or name of {name})" if model.endswith("MODEL") else ""
    return f'lede generate{model} {policy} --prompt "def mean(values):" or lede bench{model} {policy}{where}'


def _recipe(preset: str | None, options: dict[str, Any]) -> str:
    """What sets a policy's folder apart from the default one's: nothing, or its preset and options."""
    parts = [preset] if preset not in (None, "default") else []
    for name, value in options.items():
        if isinstance(value, str):
            parts.append(Path(value).stem)
        elif name not in ("updates", "seed", "memory"):
            told = ",".join(map(str, value)) if isinstance(value, tuple) else value
            parts.append(f"no-{name}" if value is False else name if value is True else f"{name}={told}")
    return "-".join(parts) or "default"
