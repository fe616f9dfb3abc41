"""`lede bench`."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import BadParameter, Option

from lede.commands import options as shared
from lede.commands.from_config import from_config
from lede.errors import said_plainly

if TYPE_CHECKING:
    from lede.bench.run import Report
    from lede.collect.prompts import Prompt


# title, prompts to measure on, prompts to tune on, tokens to write by default, temperature
Workload = tuple[str, "list[Prompt]", "list[Prompt]", int, float]
RECIPES = {"lede": "", "lede-paper": " --preset paper", "lede-exits": " --candidates LAYERS"}
USUAL_TOKENS = 256


@said_plainly
@from_config
def bench(
    *,
    model: shared.ModelOption = None,
    task: Annotated[
        list[str] | None,
        Option(help="A named task; may be repeated. [dim]Default: chat for chat models, else stdlib[/]"),
    ] = None,
    prompts: Annotated[Path | None, Option(help="JSON lines: test prompts to measure on, others to tune on.")] = None,
    training: Annotated[Path | None, Option(help="JSON lines to tune on; --prompts are all measured on.")] = None,
    methods: Annotated[
        str | None, Option(help="Such as layerskip,del,lede. [dim]Default: all that there are policies for[/]")
    ] = None,
    policy: shared.PoliciesOption = None,
    check: Annotated[bool, Option("--check", help="Also predict every speedup, and the best possible.")] = False,
    limit: Annotated[int, Option(min=2, help="Prompts to measure on.")] = 40,
    tuning: Annotated[int, Option(min=1, help="Training prompts to tune on.")] = 12,
    temperature: Annotated[
        list[float] | None,
        Option(min=0.0, help="0: greedy; may be repeated. [dim]Default: the task's, 0 but for cnn_dm_lm[/]"),
    ] = None,
    top_k: Annotated[int | None, Option(min=0, help="0: all. [dim]Default: the generation config, else 50[/]")] = None,
    top_p: Annotated[
        float | None, Option(min=0.0, max=1.0, help="1: all. [dim]Default: the generation config, else 1[/]")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of sampled texts, and of the draw of a task's prompts.")] = 1,
    max_new_tokens: Annotated[
        int | None, Option(min=2, help="Tokens to write. [dim]Default: the task's; else 256[/]")
    ] = None,
    out: Annotated[Path, Option(help="For every result; the same command finds them again.")] = Path("runs/bench"),
    plot: Annotated[Path | None, Option(help="A file for the picture, or a folder for one per table.")] = None,
    fresh: Annotated[bool, Option("--fresh", help="Measure again what was measured before.")] = False,
    runtime: shared.Runtime,
    as_json: shared.JsonOption = False,
) -> None:
    """Measure methods against each other: interleaved on held-out prompts, output checked token by token.

    Baselines are tuned on training prompts. Stop it whenever you like: the same command goes on where it was.

    [dim]lede bench --plot bench.png[/]
    [dim]lede bench --methods autoregressive,layerskip,lede --limit 10[/]
    [dim]lede bench --check --policy policies/lede-tiny --policy policies/variant[/]
    [dim]lede bench --temperature 0 --temperature 0.8 --top-k 50 --check[/]
    [dim]lede bench --model facebook/layerskip-llama2-7B --task cnn_dm_summarization --task alpaca --plot plots/[/]
    [dim]lede bench --model facebook/layerskip-llama2-7B --prompts eval.jsonl --training train.jsonl --json[/]
    """
    given = shared.named_policies(policy)
    if training and not prompts:
        raise BadParameter("--training goes with --prompts: to tune on other texts")
    if prompts and task:
        raise BadParameter("--task and --prompts exclude each other")
    if plot is not None and plot.suffix and len(task or [""]) * len(temperature or [0.0]) > 1:
        raise BadParameter(f"--plot {plot} can show one table: name a folder")

    from lede.commands.loading import check_model, checkpoint, load, other_costs, usual_task, usual_vocabulary
    from lede.replay.pictures import check_format
    from lede.terminal import bar, print_json, say, warn

    check_model(model, runtime)
    chosen, policies, notes = plan(model, methods.split(",") if methods else None, given)  # before all that is slow
    if plot is not None and plot.suffix:
        check_format(plot)
    if prompts is not None:
        from lede.collect.prompts import load_prompts

        test = load_prompts(prompts, "all" if training else "test")
        train = load_prompts(training) if training else load_prompts(prompts, "train")
        works = [(prompts.stem, test[:limit], train[:tuning], USUAL_TOKENS, 0.0)]
    else:
        works = [named_task(name, limit, tuning, seed) for name in task or [usual_task(model)]]
    works = [(*work[:-1], heat) for work in works for heat in temperature or work[-1:]]
    heats = [heat for *_, heat in works]
    for option, value in {"--top-k": top_k, "--top-p": top_p}.items():
        if value is not None and not any(heats):
            raise BadParameter(f"{option} is for sampled texts, and these are greedy: give a --temperature")
    for note in notes:
        warn(note)

    from lede.bench.job import Job
    from lede.bench.plot import draw
    from lede.bench.run import bench as run
    from lede.decode.sampling import Settings
    from lede.paths import dataset_path
    from lede.policy import load_policy

    reports: list[Report] = []
    with bar("measuring", 100, quiet=as_json) as advance:
        first = next(map(load_policy, policies.values()), None)
        loaded = load(model, runtime, usual_vocabulary(dataset_path(model), first))
        given_cuts, config = {"top_k": top_k, "top_p": top_p}, loaded.generation_config
        cuts: dict[str, Any] = {
            name: config.get(name) if value is None else value for name, value in given_cuts.items()
        }
        for title, test, train, usual, heat in works:
            settings = Settings(max_new_tokens or usual, heat, **cuts, seed=seed)
            job = Job(title, test, train, settings, chosen, policies, runtime.threads, check)
            named = f"{title} at {heat:g}: " if heat else f"{title}: "
            which = named if len(works) > 1 else ""

            def report(share: float, note: str, before: int = len(reports), which: str = which) -> None:
                advance(round(100 * (before + share) / len(works)), which + note)

            reports.append(run(loaded, checkpoint(model), job, out / loaded.name / title, fresh, report))
    measured_on = {"type": loaded.device.type, "name": reports[0].facts["device"]}
    measured_on["threads"] = reports[0].facts["threads"]
    for name, folder in policies.items():
        if (line := other_costs(load_policy(folder), measured_on)) is not None:
            warn(f"{name}: {line}")
    drawn = draw(plot, reports) if plot is not None else []
    if as_json:
        contents = [report.to_json() for report in reports]
        print_json(contents[0] if len(works) == 1 else contents[0] | {"tables": contents})
        return
    for report_ in reports:
        show(report_)
    for path in drawn:
        say(f"drawn in {path}")


def plan(
    model: str | None, asked: list[str] | None, given: dict[str, Path]
) -> tuple[list[str], dict[str, Path], list[str]]:
    """The methods to measure, the policies' folders, and what to say about methods that are left out.

    given: folders named on the command line, by the names of their rows, which are always measured. Raises PolicyError
    where there is no policy.
    """
    from lede.bench.names import KNOWN, LLAMA_CPP, LLAMA_CPPS, METHODS, POLICY_OF
    from lede.paths import dataset_path, usual_policies, usual_policy
    from lede.policy import load_policy

    further = [name for name in given if name not in METHODS]
    if asked is not None:
        asked = [name for one in asked for name in (LLAMA_CPPS if one == LLAMA_CPP else [one])]
    if unknown := [name for name in asked or () if name not in (*KNOWN, *further)]:
        there = ", ".join((*METHODS, LLAMA_CPP, *LLAMA_CPPS, *further))
        raise BadParameter(f"no method {', '.join(unknown)}: choose among {there}")
    needed = ("xllamacpp", "gguf") if {*LLAMA_CPPS} & {*(asked or ())} else ()
    if absent := " ".join(name for name in needed if find_spec(name) is None):
        raise BadParameter(f"llama-cpp needs packages that are not here: pip install {absent}")
    usual = dataset_path(model)
    folders = usual_policies(usual) | given
    if "lede" not in given:
        folders["lede"] = usual_policy(model) or folders["lede"]
    missing = [name for name in folders if asked is None and name not in given and not folders[name].is_dir()]
    chosen = [name for name in dict.fromkeys((*(asked or METHODS), *further)) if POLICY_OF.get(name) not in missing]
    policies = {name: folders[name] for name in dict.fromkeys(POLICY_OF.get(m, m) for m in chosen) if name in folders}
    for folder in policies.values():
        load_policy(folder)
    notes = [
        f"without {', '.join(method for method, needs in POLICY_OF.items() if needs == name)}: there is no policy at "
        f"{folders[name]}; lede learn --dataset {usual}{RECIPES[name]} --out {folders[name]} makes one"
        for name in missing
    ]
    return chosen, policies, notes


def named_task(task: str, limit: int, tuning: int, seed: int) -> Workload:
    """Test and training prompts of one of `collect.tasks`; Spec-Bench's are tuned on chats in the package."""
    from lede.collect.tasks import SPEC_BENCH, TASKS, load_task

    train = load_task("chat" if task == SPEC_BENCH else task, "train", tuning, seed)
    test = load_task(task, "test", limit, seed)
    return task, test, train, TASKS[task].max_new_tokens, TASKS[task].temperature


def show(report: "Report") -> None:
    """Print one table, where the time went, and what it means."""
    from lede.bench_tables import bench_table, bench_title, bench_words, category_table, check_table, time_table
    from lede.terminal import console, say, wide

    tables = wide()
    say(bench_title(report))
    tables.print(bench_table(report))
    if report.categories:
        tables.print(category_table(report))
    tables.print(time_table(report))
    if report.check is not None:
        tables.print(check_table(report))
    console.print()
    for line in bench_words(report):
        say(line)
    console.print()
