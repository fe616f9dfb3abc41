"""`lede learn`."""

import math
import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from lede.commands.options import JsonOption, parse_bytes, parse_layers
from lede.errors import said_plainly
from lede.paths import EMBEDDED, SMOLLM2

if TYPE_CHECKING:
    from lede.replay.reader import Dataset

OPTIONS = (
    *("algorithm", "source", "reward", "features", "horizon", "candidates", "bypass", "max_drafts", "gamma"),
    *("n_steps", "updates", "seed", "memory"),
)


@said_plainly
def learn(
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
        Option(help="paper (its recipe to the letter) or fitted (an upper bound). [dim]Default: double DQN[/]"),
    ] = None,
    algorithm: Annotated[
        str | None, Option(help="double_dqn or dqn, both d3rlpy's; or fitted (from sweeps alone).")
    ] = None,
    source: Annotated[
        str | None,
        Option(
            help="sweeps (both actions of every state are known) or log (what was tried). "
            "[dim]Default: sweeps where there are any and no option needs the log[/]"
        ),
    ] = None,
    reward: Annotated[
        str | None,
        Option(help="paper, accepted, time (tokens less their time's worth), or FILE.py with a function reward."),
    ] = None,
    features: Annotated[
        str | None, Option(help="paper (three numbers), free (what costs nothing to know) or extended (all).")
    ] = None,
    horizon: Annotated[str | None, Option(help="walk (a layer walk is a chain) or round.")] = None,
    candidates: Annotated[
        str | None, Option(help="Some of the dataset's candidates, as 0,4,6; 0 may be added to a swept one.")
    ] = None,
    bypass: Annotated[
        bool | None,
        Option("--bypass/--no-bypass", help="Let a round draft nothing. [dim]Default: if learned from sweeps[/]"),
    ] = None,
    max_drafts: Annotated[int | None, Option(min=2, max=31, help="Drafts per round; the paper has 12.")] = None,
    gamma: Annotated[float | None, Option(min=0.0, max=1.0, help="Discount per decision.")] = None,
    n_steps: Annotated[int | None, Option("--n-step", min=1, help="Steps of the n-step return.")] = None,
    updates: Annotated[int | None, Option(min=1, help="Gradient steps.")] = None,
    seed: Annotated[int | None, Option(min=0)] = None,
    memory: Annotated[
        str | None,
        Option(
            help="The most memory that this process may take, as 4GB: what does not fit is learned from part by part. "
            "[dim]Default: all at once[/]"
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Learn a policy from a dataset's files alone; the model is not needed, nor the machine that they come from.

    [dim]lede learn --dataset data/llama2-7b[/]
    [dim]lede learn --dataset data/lede-tiny --preset paper[/]
    [dim]lede learn --dataset data/large --memory 4GB[/]
    [dim]lede learn --dataset s3://bucket/llama2-7b[/]
    [dim]lede learn --reward accepted --candidates 0,4 --out policies/mine[/]
    """
    options = locals() | {"candidates": parse_layers(candidates), "memory": parse_bytes(memory)}
    options["reward"] = reward and os.path.expanduser(reward)  # a file's path, or a name
    given = {name: options[name] for name in OPTIONS if options[name] is not None}
    datasets = dataset or [Path("data/lede-tiny")]
    _learn_one(datasets, out, preset, given, json)


def _learn_one(datasets: list[Path], out: Path | None, preset: str | None, options: dict[str, Any], json: bool) -> None:
    from lede.learn.config import preset as preset_config
    from lede.paths import policy_path
    from lede.replay.reader import open_dataset
    from lede.terminal import bar, console, errors, print_json, say

    config = preset_config(preset or "default", **options)
    dataset = open_dataset(*datasets)  # now, so that what is wrong with it is said before what is slow is imported
    with errors.status("loading d3rlpy"):
        from lede.learn.data import Snapshot
        from lede.learn.score import Score
        from lede.learn.train import learn as run
    out = out or policy_path(dataset.name, _recipe(preset, options))
    with bar("learning", 1000, quiet=json) as advance:

        def report(step: Snapshot, score: Score) -> None:
            told = {"loss": step.loss, "validation tokens/ms": score.rate, "reward": score.reward}
            words = "  ".join(f"{name} {value:.3f}" for name, value in told.items() if not math.isnan(value))
            advance(round(step.update / step.total * 1000), f"update {step.update:,}/{step.total:,}  {words}")

        result = run(dataset, out, config, report)
    if json:
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
    say(f"policy in {out}; next: {_next(dataset, out)}")


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
