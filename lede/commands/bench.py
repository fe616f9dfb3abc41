"""`lede bench`."""

from pathlib import Path
from typing import Annotated

import typer

from lede.commands.options import DeviceOption, DtypeOption, JsonOption, ModelOption, ThreadsOption
from lede.errors import said_plainly


@said_plainly
def bench(
    model: ModelOption = None,
    policy: Annotated[
        Path | None, typer.Option(help="The policy to measure. [dim]Default: policies/<model name>[/]")
    ] = None,
    paper_policy: Annotated[
        Path | None,
        typer.Option(help="The paper's preset, to set beside it. [dim]Default: policies/<model name>-paper[/]"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSON lines to measure on. [dim]Default: held-out functions of the standard library[/]"),
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="JSON lines to tune the static rule on (with --prompts).")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Prompts to measure on.")] = 40,
    tuning: Annotated[int, typer.Option(min=1, help="Training prompts to tune on.")] = 12,
    max_new_tokens: Annotated[int, typer.Option(min=2)] = 256,
    plot: Annotated[Path | None, typer.Option(help="Draw the speedups into this PNG.")] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Measure methods against each other: interleaved on held-out prompts, output checked token by token.

    [dim]lede bench --plot bench.png[/]
    [dim]lede bench --model facebook/layerskip-llama2-7B --prompts eval.jsonl --training train.jsonl --json[/]
    """
    if prompts is not None and training is None:
        raise typer.BadParameter("--prompts needs --training: other prompts, to tune the static rule on")

    from lede.commands.loading import console, load
    from lede.paths import dataset_path, model_path, policy_path
    from lede.progress import bar

    usual = dataset_path(model)
    policies = {"lede": policy or policy_path(usual)}
    paper = paper_policy or policy_path(usual, "paper")
    if paper_policy is not None or paper.is_dir():
        policies["lede-paper"] = paper

    from collect.prompts import load_prompts, stdlib_prompts
    from serve.policy import load_policy

    for folder in policies.values():
        load_policy(folder)  # before anything takes time
    test = load_prompts(prompts)[:limit] if prompts else stdlib_prompts("test", limit=limit, seed=0)
    train = load_prompts(training)[:tuning] if training else stdlib_prompts("train", limit=tuning, seed=0)
    loaded = load(model, dtype, device, threads)

    from bench.plot import draw
    from bench.run import bench as run
    from decode.sampling import Settings
    from lede.tables import bench_table, bench_words

    stages = {"tuning": 0.25, "measuring": 0.75}
    with bar("measuring", 100, quiet=json) as advance:

        def report(stage: str, done: int, total: int) -> None:
            share = done / total * stages[stage] + (stages["tuning"] if stage == "measuring" else 0)
            advance(round(share * 100), stage)

        found = run(loaded, model_path(model), test, train, policies, Settings(max_new_tokens), report)
    if plot is not None:
        draw(plot, found.rows, title=f"{loaded.name}, {found.facts['dtype']}, {found.facts['device']}")
    if json:
        import json as encoder

        print(encoder.dumps(found.to_json()))
        return
    console.print(bench_table(found))
    for line in bench_words(found):
        console.print(line)
    if plot is not None:
        console.print(f"drawn in {plot}")
