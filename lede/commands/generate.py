"""`lede generate`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lede.commands.options import DeviceOption, DtypeOption, JsonOption, ModelOption, ThreadsOption, parse_text
from lede.errors import said_plainly

if TYPE_CHECKING:
    from lede.decode.round import Generation


@said_plainly
def generate(
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The text to go on from; - or nothing reads stdin.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A policy's folder. [dim]Default: policies/<model name> where it exists[/]")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="No policy: every token through all layers.")] = False,
    model: ModelOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Of sampling.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End at this text; may be given more than once.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Colour every token by the layer that drafted it.")] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Write on from a prompt: the same text as the model's own, sooner.

    [dim]lede generate --prompt "def mean(values):"[/]
    [dim]lede generate --policy policies/lede-tiny --trace < start.py[/]
    """
    if plain and policy is not None:
        raise typer.BadParameter("--plain and --policy exclude each other")
    if trace and json:
        raise typer.BadParameter("--trace and --json exclude each other")
    text = parse_text(prompt)

    from lede.commands.loading import load
    from lede.paths import dataset_path, policy_path
    from lede.serve.generate import generate as run
    from lede.serve.policy import load_policy
    from lede.terminal import console, print_json, warn

    if policy is None and not plain:
        usual = policy_path(dataset_path(model))
        policy = usual if usual.is_dir() else None
        if policy is None:
            warn(f"no policy at {usual}: plain decoding (lede collect and lede learn make one)", "dim")
    learned = load_policy(policy) if policy is not None else None
    loaded = load(model, dtype, device, threads)

    from lede.decode.round import Round
    from lede.serve.stream import Stream
    from lede.serve.trace import Tracer

    show: Callable[[Round], None] | None = None
    if trace and loaded.tokenizer is not None:
        tracer = Tracer(loaded.tokenizer, loaded.layer_count)
        if learned is not None:
            console.print(tracer.legend(learned.layers), end="\n\n")
        console.print(text, end="", style="dim")

        def show(round_: Round) -> None:
            console.print(tracer.round(round_), end="")

    elif not json:
        show = Stream(loaded, lambda piece: print(piece, end="", flush=True)).round
    done = run(
        loaded, text, learned, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        seed=seed, stop_strings=tuple(stop or ()), on_round=show,
    )  # fmt: skip
    if json:
        print_json({
            "text": done.text, "token_ids": done.token_ids, "finish": done.finish, "seconds": done.seconds,
            "tokens_per_s": done.tokens_per_s, "exit_layer": done.exit_layer, "draft_length": done.draft_length,
            "acceptance": done.acceptance, "tokens_per_round": done.tokens_per_round, "rounds": len(done.rounds),
        })  # fmt: skip
        return
    print(flush=True)
    warn(f"\n{closing_line(done)}", "dim")


def closing_line(done: "Generation") -> str:
    """Speed and the paper's measures of one generation."""
    parts = [f"{len(done.token_ids)} tokens", f"{done.tokens_per_s:.0f} tokens/s"]
    if done.drafted:
        parts += [
            f"E {done.exit_layer:.2f}", f"d {done.draft_length:.2f}", f"acceptance {done.acceptance:.0%}",
            f"{done.tokens_per_round:.2f} tokens a round",
        ]  # fmt: skip
    return " · ".join([*parts, f"ended by {done.finish.replace('_', ' ')}"])
