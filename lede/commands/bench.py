"""`lede bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lede.commands.options import DeviceOption, DtypeOption, JsonOption, ThreadsOption
from lede.errors import said_plainly

if TYPE_CHECKING:
    from bench.run import Report
    from collect.prompts import Prompt
    from decode.sampling import Settings

STDLIB = "stdlib"
USUAL_TOKENS = 256
WIDTH = 100  # columns that the tables need


@said_plainly
def bench(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A folder or hub name of a Llama checkpoint; may be given more than once. "
                     "[dim]Default: the embedded lede-tiny[/]"),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="A named task; may be given more than once. [dim]Default: stdlib, held-out functions of the "
                     "standard library[/]"),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines to measure on, instead of a task.")] = None,
    training: Annotated[Path | None, typer.Option(help="JSON lines to tune rivals on (with --prompts).")] = None,
    methods: Annotated[
        str | None, typer.Option(help="Such as layerskip,del,lede. [dim]Default: all that there are policies for[/]")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="The policy to measure. [dim]Default: policies/<model name>[/]")
    ] = None,
    paper_policy: Annotated[
        Path | None,
        typer.Option(help="The paper's preset, to set beside it. [dim]Default: policies/<model name>-paper[/]"),
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Prompts to measure on.")] = 40,
    tuning: Annotated[int, typer.Option(min=1, help="Training prompts to tune on.")] = 12,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=2, help="Tokens to write. [dim]Default: the task's own; 256 for stdlib[/]")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Where every prompt's result is written, and found again by the same command.")
    ] = Path("runs/bench"),
    plot: Annotated[
        Path | None, typer.Option(help="Draw: speedups into a .png, or three pictures of each table into a folder.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what was measured before.")] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Measure methods against each other: interleaved on held-out prompts, output checked token by token.

    Rivals are tuned on training prompts. Stop it whenever you like: the same command goes on where it was.

    [dim]lede bench --plot bench.png[/]
    [dim]lede bench --methods autoregressive,layerskip,lede --limit 10[/]
    [dim]lede bench --model facebook/layerskip-llama2-7B --task cnn_dm_summarization --task alpaca --plot plots/[/]
    [dim]lede bench --model facebook/layerskip-llama2-7B --prompts eval.jsonl --training train.jsonl --json[/]
    """
    models: list[str | None] = [*model] if model else [None]
    if (prompts is None) != (training is None):
        raise typer.BadParameter("--prompts and --training go together: rivals are tuned on other prompts")
    if prompts is not None and task:
        raise typer.BadParameter("--task and --prompts exclude each other")
    if len(models) > 1 and (policy or paper_policy):
        raise typer.BadParameter("--policy is one model's: with several models their policies are in policies/<name>")
    asked = tuple(methods.split(",")) if methods else None

    from lede.commands.loading import console, errors
    from lede.progress import bar

    plans = [plan(name, asked, policy, paper_policy) for name in models]  # before anything takes time
    works = [workload(name, limit, tuning, max_new_tokens, prompts, training) for name in task or [STDLIB]]
    for note in dict.fromkeys(note for _, _, notes in plans for note in notes):
        errors.print(f"[yellow]{note}[/]")

    from bench.run import Job
    from bench.run import bench as run
    from lede.commands.loading import load
    from lede.paths import model_name, model_path

    reports: list[Report] = []
    tables = len(models) * len(works)
    with bar("measuring", 100, quiet=json) as advance:
        for name, (chosen, policies, _) in zip(models, plans, strict=True):
            loaded = load(name, dtype, device, threads)
            for title, test, train, settings in works:
                job = Job(title, test, train, settings, chosen, policies, threads)

                def report(share: float, note: str, before: int = len(reports), what: str = title) -> None:
                    which = f"{model_name(name)}, {what}: " if tables > 1 else ""  # noqa: B023
                    advance(round(100 * (before + share) / tables), which + note)

                folder = out / loaded.name / title
                reports.append(run(loaded, model_path(name), job, folder, fresh, report))
            del loaded
    drawn = []
    if plot is not None:
        from bench.plot import draw

        drawn = draw(plot, reports)
    if json:
        import json as encoder

        found = reports[0].to_json()
        print(encoder.dumps(found if tables == 1 else found | {"tables": [report.to_json() for report in reports]}))
        return
    for report_ in reports:
        show(report_)
    for path in drawn:
        console.print(f"drawn in {path}", soft_wrap=True)


def plan(
    model: str | None, asked: tuple[str, ...] | None, policy: Path | None, paper_policy: Path | None
) -> tuple[tuple[str, ...], dict[str, Path], list[str]]:
    """The methods to measure, the policies' folders, and what to say about methods that are left out."""
    from bench.names import METHODS, POLICY_OF
    from lede.paths import dataset_path, policy_path
    from serve.policy import load_policy

    unknown = [name for name in asked or () if name not in METHODS]
    if unknown:
        raise typer.BadParameter(f"no method {', '.join(unknown)}: choose among {', '.join(METHODS)}")
    usual = dataset_path(model)
    folders = {"lede": policy or policy_path(usual), "lede-paper": paper_policy or policy_path(usual, "paper")}
    given = {"lede": policy is not None, "lede-paper": paper_policy is not None}
    chosen, policies, missing = [], {}, dict.fromkeys(folders, False)
    for name in METHODS if asked is None else asked:
        needs = POLICY_OF.get(name)
        if needs is not None and asked is None and not given[needs] and not folders[needs].is_dir():
            missing[needs] = True
            continue
        if needs is not None:
            load_policy(folders[needs])
            policies[needs] = folders[needs]
        chosen.append(name)
    notes = []
    for needs, lacks in missing.items():
        if lacks:
            names = ", ".join(name for name, folder in POLICY_OF.items() if folder == needs)
            preset = "" if needs == "lede" else " --preset paper"
            notes.append(
                f"without {names}: there is no policy at {folders[needs]}; lede learn --dataset {usual}{preset} makes "
                "one (from what lede collect writes)"
            )
    return tuple(chosen), policies, notes


def workload(
    task: str, limit: int, tuning: int, max_new_tokens: int | None, prompts: Path | None, training: Path | None
) -> "tuple[str, list[Prompt], list[Prompt], Settings]":
    """A table's name, the prompts to measure on, those to tune on, and how to decode them."""
    from collect.prompts import load_prompts
    from collect.tasks import TASKS, load_task
    from decode.sampling import Settings

    if prompts is not None and training is not None:
        test, train = load_prompts(prompts)[:limit], load_prompts(training)[:tuning]
        return prompts.stem, test, train, Settings(max_new_tokens or USUAL_TOKENS)
    if task not in TASKS:
        raise typer.BadParameter(f"no task {task!r}: choose among {', '.join(TASKS)}, or give --prompts")
    known = TASKS[task]
    settings = Settings(max_new_tokens or known.max_new_tokens, known.temperature)
    return task, load_task(task, "test", limit, seed=0), load_task(task, "train", tuning, seed=0), settings


def show(report: "Report") -> None:
    """Print one table, where the time went, and what it means."""
    from rich.console import Console

    from lede.bench_tables import bench_table, bench_title, bench_words, time_table
    from lede.commands.loading import console

    # in a file or a pipe nothing need be cut
    wide = console if console.is_terminal else Console(highlight=False, width=max(console.width, WIDTH))
    console.print(bench_title(report), soft_wrap=True)
    wide.print(bench_table(report))
    wide.print(time_table(report))
    console.print()
    for line in bench_words(report):
        console.print(line, soft_wrap=True)
    console.print()
