"""`lede collect`."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, get_args

from typer import BadParameter, Option

from lede.collect.config import CollectConfig, Exploration
from lede.commands import options as shared
from lede.commands.from_config import Given, from_config
from lede.errors import said_plainly
from lede.paths import EMBEDDED, SMOLLM2, default_model_path

if TYPE_CHECKING:
    from lede.collect.collector import Engine
    from lede.decode.model import Model
    from lede.policy import Policy

MOST_PROMPTS = 10_000  # of a task; behind them the first come again


@said_plainly
@from_config
def collect(
    *,
    model: shared.ModelOption = None,
    task: Annotated[
        str | None,
        Option(
            help="Prompts by name: stdlib (functions that the embedded model never saw), chat (short requests of all "
            "kinds), or the paper's cnn_dm_summarization, cnn_dm_lm, topv2, alpaca, humaneval. "
            "[dim]Default: chat for chat models, else stdlib[/]"
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        Option(
            help="Prompts of your own: JSON lines with prompt, messages or turns, optional id, task, reference, "
            "group (or conversation); or a dataset with texts, such as lede serve --record-text writes."
        ),
    ] = None,
    split: Annotated[
        str, Option(help="train, validation, test or all. Learning needs train and validation, evaluating test.")
    ] = "all",
    out: Annotated[
        Path | None, Option(help="The dataset's folder, or s3://bucket/name. [dim]Default: data/<model name>[/]")
    ] = None,
    settings: Annotated[Given, CollectConfig],
    policy: Annotated[Path | None, Option(help="The policy to explore around.")] = None,
    workers: Annotated[
        int | None,
        Option(
            min=1,
            help="Processes that decode at the same time, each with the model; GPUs are shared out. "
            "[dim]Default: 1; with --ray as many as there is room for[/]",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        Option(
            help="Collect the i-th of n shares alone, as 3/8, into the same folder as the others or one of its own "
            "(lede merge)."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        Option(
            metavar="[ADDRESS]",
            help="Decode on a Ray cluster: its address, auto (the one that runs here), or nothing, which starts one on "
            "this machine. Only this process writes the dataset; the model must be there for every node.",
        ),
    ] = None,
    num_cpus: Annotated[
        float | None, Option(min=0.0, help="CPUs of each worker with --ray. [dim]Default: 1[/]")
    ] = None,
    num_gpus: Annotated[
        float | None,
        Option(min=0.0, help="GPUs of each worker with --ray, such as 0.5. [dim]Default: 1 where there are any[/]"),
    ] = None,
    new_run: Annotated[bool, Option("--new-run", help="Add a run with other arguments to a dataset.")] = False,
    draft_vocab: Annotated[
        int | None,
        Option(
            min=0,
            help="Draft only so many tokens, the most frequent ones of --draft-vocab-from; 0: all. "
            "[dim]Default: the dataset's or the policy's; else what the exit heads have[/]",
        ),
    ] = None,
    draft_vocab_from: Annotated[Path | None, Option(help="A dataset, whose tokens are counted.")] = None,
    runtime: shared.Runtime,
    as_json: shared.JsonOption = False,
) -> None:
    """Decode prompts under an exploring rule, and log every decision as a row of a Parquet dataset.

    Stop it whenever you like: the same command goes on where it was.

    [dim]lede collect --episodes 200[/]
    [dim]lede collect --model facebook/layerskip-llama2-7B --task cnn_dm_summarization --episodes 500[/]
    [dim]lede collect --model facebook/layerskip-llama2-7B --prompts my.jsonl[/]
    [dim]lede collect --temperature 0.8 --new-run[/]
    [dim]lede collect --model smollm2 --workers 4[/]
    [dim]lede collect --model facebook/layerskip-llama2-7B --ray ray://head:10001 --workers 16[/]
    [dim]lede collect --shard $SLURM_ARRAY_TASK_ID/8[/]
    [dim]lede collect --out s3://bucket/lede-tiny[/]
    [dim]lede collect --policy policies/lede-tiny --explore epsilon --new-run[/]
    """
    from lede.collect.prompts import load_prompts
    from lede.collect.tasks import TASKS, load_task
    from lede.commands.loading import check_model, usual_task, usual_vocabulary
    from lede.paths import dataset_path
    from lede.policy import load_policy
    from lede.terminal import bar, errors, print_json, say, warn

    side = shared.one_of("--split", split, "train", "validation", "test", "all")
    explore = shared.one_of("--explore", settings.get("explore", CollectConfig.explore), *get_args(Exploration))
    if (policy is not None) != (explore == "epsilon"):
        raise BadParameter("--policy and --explore epsilon go together")
    if prompts is not None and task is not None:
        raise BadParameter("--task names prompts, and so does --prompts: give one of them")
    share = shared.parse_shard(shard)
    if (ray is not None or (workers or 1) > 1) and shard is not None:
        raise BadParameter("--workers and --ray share a plan out themselves, --shard by hand: give one of them")
    if ray is None and (num_cpus is not None or num_gpus is not None):
        raise BadParameter("--num-cpus and --num-gpus are what --ray gives each worker: add --ray")
    if policy is not None and "layers" in settings:
        raise BadParameter("--candidates are the policy's own with --policy")
    if (draft_vocab_from is None) == bool(draft_vocab):
        raise BadParameter("--draft-vocab N and --draft-vocab-from DATASET go together")
    out = out or dataset_path(model)
    check_model(model, runtime)
    task = task or usual_task(model)
    learned = load_policy(policy) if policy else None

    # As many whatever the number of episodes, so that more of them continue a run.
    drawn = settings.get("seed", CollectConfig.seed)
    chosen = load_prompts(prompts, side) if prompts else load_task(task, side, MOST_PROMPTS, drawn)
    heat = None if any(prompt.sampling for prompt in chosen) else TASKS[task].temperature
    usual: Given = {"max_new_tokens": TASKS[task].max_new_tokens, "temperature": heat}
    config = CollectConfig(**(usual | settings))

    from lede.collect.collector import Collected, describe_source
    from lede.collect.collector import collect as run

    drafted = usual_vocabulary(out, learned) if draft_vocab is None else ()
    if draft_vocab and draft_vocab_from is not None:
        from lede.collect.vocabulary import frequent_tokens
        from lede.replay.reader import open_dataset

        drafted, covered = frequent_tokens(open_dataset(draft_vocab_from), draft_vocab)
        warn(f"draft vocabulary: {len(drafted):,} tokens, {covered:.1%} of what the model wrote there", "dim")

    def loader(runtime: shared.Runtime) -> Callable[[], "Model"]:
        return partial(_load, learned, model, runtime, drafted)

    with ExitStack() as stack:
        engine: Model | Engine
        if ray is not None:
            from lede.collect.cluster import Cluster

            num_cpus = 1.0 if num_cpus is None else num_cpus
            num_gpus = 0.0 if num_gpus is None and runtime.device == "cpu" else num_gpus
            there = replace(runtime, exits=exits_everywhere(model, runtime.exits))
            there = replace(there, threads=runtime.threads or max(1, int(num_cpus)))
            model = absolute(model)
            with errors.status("reaching the cluster and loading the model there"):
                engine = Cluster(loader(there), ray, workers, num_cpus, num_gpus, warn)
                stack.enter_context(engine).about()
        elif workers is not None and workers > 1:
            from lede.collect.workers import Workers
            from lede.decode.device import cores

            each = replace(runtime, threads=runtime.threads or max(1, cores() // workers))
            loaders = [loader(replace(each, device=device)) for device in shared_out(runtime.device, workers)]
            engine = stack.enter_context(Workers(loaders, warn))
            with errors.status("loading torch and the model"):
                engine.about()
        else:
            engine = loader(runtime)()
        advance = stack.enter_context(bar("collecting", config.episodes, quiet=as_json))

        def report(c: Collected) -> None:
            done = c.resumed + c.episodes + c.skipped
            speed = c.tokens / c.seconds if c.seconds else 0
            advance(done, f"{c.decisions:,} decisions  {speed:.0f} tokens/s")

        source = describe_source(chosen, learned, side)
        collected = run(engine, chosen, out, config, learned, source, new_run, report, share)
    if as_json:
        print_json(vars(collected) | {"dataset": str(out)})
        return
    if collected.resumed:
        say(f"{collected.resumed} of {collected.planned} episodes were there already")
    if collected.skipped:
        say(f"left out, longer than the model's context: {collected.skipped} of the prompts", "yellow")
    say(f"{collected.episodes} episodes, {collected.decisions:,} decisions, {collected.tokens:,} tokens in {out}")
    where = quote(str(out))
    learn = f" or lede learn --dataset {where}" if side == "all" else ""  # it needs two sides of the split
    say(f"next: lede inspect {where}{learn}")


def _load(learned: "Policy | None", *arguments: Any) -> "Model":
    """What `load` gives, as a worker calls it. Raises PolicyError where the policy is another model's."""
    from multiprocessing import parent_process

    from lede.commands.loading import load
    from lede.terminal import errors

    errors.quiet = parent_process() is not None  # which shows how it goes
    loaded = load(*arguments)
    if learned is not None:
        from lede.decode.facts import model_facts
        from lede.policy import check_fits

        check_fits(learned, model_facts(loaded))
    return loaded


def absolute(path: str | None) -> str | None:
    """A path that is there, for processes that work in other folders; names of models stay as they are."""
    if path is None or not os.path.exists(os.path.expanduser(path)) or path in (EMBEDDED, SMOLLM2):
        return path
    return os.path.abspath(os.path.expanduser(path))


def exits_everywhere(model: str | None, exits: str | None) -> str | None:
    """`--exits` so that it means the same in another folder: those of the package stay to be found by the model."""
    from lede.commands.loading import exits_folder

    if exits is not None and exits.startswith("hf:"):
        return exits
    folder = exits_folder(model, exits)
    if folder is None:
        return "none"
    in_package = exits is None and folder.is_relative_to(default_model_path().parents[1])
    return None if in_package else os.path.abspath(folder)


def shared_out(device: str, workers: int) -> list[str]:
    """The device of each worker: all GPUs in turn, where any of them will do."""
    import torch

    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    return [f"cuda:{worker % count}" if count else device for worker in range(workers)]
