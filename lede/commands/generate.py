"""`lede generate`."""

from json import loads
from typing import TYPE_CHECKING, Annotated, Any

from typer import BadParameter, Option

from lede.commands import options as shared
from lede.commands.from_config import from_config
from lede.errors import said_plainly

if TYPE_CHECKING:
    from lede.decode.round import Generation, Round

JSON_FIELDS = (
    *("text", "token_ids", "finish", "seconds", "tokens_per_s"),
    *("exit_layer", "draft_length", "acceptance", "tokens_per_round"),
)

# Of `serve.generate.generate`: no names of a GenerationConfig that --option may give.
PARAMETERS = {
    *("model", "prompt", "policy", "max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop_strings"),
    *("logits_processor", "on_round"),
}


@said_plainly
@from_config
def generate(
    *,
    prompt: Annotated[
        str | None, Option("--prompt", "-p", help="The text to go on from; - or nothing reads stdin.")
    ] = None,
    policy: shared.PolicyOption = None,
    chat: Annotated[bool, Option("--chat", help="The prompt is a message to a chat model, to be answered.")] = False,
    plain: shared.PlainOption = False,
    model: shared.ModelOption = None,
    max_new_tokens: Annotated[
        int | None, Option(min=1, help="[dim]Default: the generation config, else 128[/]")
    ] = None,
    temperature: Annotated[
        float | None, Option(min=0.0, help="0: greedy. [dim]Default: the generation config, else 0[/]")
    ] = None,
    top_k: Annotated[int | None, Option(min=0, help="0: all. [dim]Default: the generation config, else 50[/]")] = None,
    top_p: Annotated[float | None, Option(min=0.0, max=1.0)] = None,
    seed: Annotated[int | None, Option(min=0, help="Of sampling; modulo 2^64.")] = None,
    stop: Annotated[list[str] | None, Option(help="End at this text; may be given more than once.")] = None,
    option: Annotated[
        list[str] | None,
        Option("--option", "-o", help="NAME=VALUE of a transformers GenerationConfig, over the model's own."),
    ] = None,
    trace: Annotated[bool, Option("--trace", help="Colour every token by the layer that drafted it.")] = False,
    runtime: shared.Runtime,
    as_json: shared.JsonOption = False,
) -> None:
    """Write on from a prompt: the same text as the model's own, sooner.

    [dim]lede generate --prompt "def mean(values):"[/]
    [dim]lede generate --model smollm2 --chat --prompt "What is a list comprehension?"[/]
    [dim]lede generate --policy policies/lede-tiny --trace < start.py[/]
    """
    if trace and as_json:
        raise BadParameter("--trace and --json exclude each other")
    if "" in (stop or ()):
        raise BadParameter("a stop string is empty, which every text ends in: leave it out")
    options = dict(generation_option(given) for given in option or ())
    text = shared.parse_text(prompt)

    from lede.commands.loading import check_model, chosen_policy, load_for
    from lede.terminal import console, print_json, warn
    from lede.terminal import show as show_text

    check_model(model, runtime)
    for name in PARAMETERS & options.keys():
        raise BadParameter(f"--option {name}: this has an option of its own, see --help")
    learned = chosen_policy(model, policy, plain)
    loaded = load_for(model, runtime, learned)

    from lede.decode.generate import encode
    from lede.serve.generate import generate as run
    from lede.serve.stream import Decoder
    from lede.serve.trace import Tracer

    ids = encode(loaded, [{"role": "user", "content": text}] if chat else text)
    written = Decoder(loaded.tokenizer, ids if trace else (), skip_special_tokens=not trace)
    tracer = Tracer(written, loaded.layer_count, marks=console.color_system is None)

    def show(round_: "Round") -> None:
        if trace:
            console.print(tracer.round(round_), end="", soft_wrap=True)
        elif not as_json:
            show_text(written.add(round_.committed))

    if trace:
        if learned is not None:
            console.print(tracer.legend(learned.layers), end="\n\n")
        console.print(text, end="", style="dim", soft_wrap=True)
    options |= {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    done = run(loaded, ids, learned, seed=seed, stop_strings=stop or (), on_round=show, **options)
    if as_json:
        print_json({name: getattr(done, name) for name in JSON_FIELDS} | {"rounds": len(done.rounds)})
        return
    show_text(written.peek(), end="\n")
    warn(f"\n{closing_line(done)}", "dim")


def generation_option(given: str) -> tuple[str, Any]:
    """Name and value of NAME=VALUE; the value is JSON, or else a text."""
    name, equals, value = given.partition("=")
    if not (name and equals):
        raise BadParameter(f"--option {given}: give NAME=VALUE, such as repetition_penalty=1.1")
    try:
        return name, loads(value)
    except ValueError:
        return name, value


def closing_line(done: "Generation") -> str:
    """Speed and the paper's measures of one generation."""
    parts = [f"{len(done.token_ids)} tokens", f"{done.tokens_per_s:.0f} tokens/s"]
    if done.sums.drafted:
        parts += [f"E {done.exit_layer:.2f}", f"d {done.draft_length:.2f}", f"acceptance {done.acceptance:.0%}"]
        parts.append(f"{done.tokens_per_round:.2f} tokens per round")
    return " · ".join([*parts, f"ended by {done.finish.replace('_', ' ')}"])
