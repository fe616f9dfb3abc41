"""`lede report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import BadParameter, Option

from lede.commands import options as shared
from lede.commands.from_config import from_config
from lede.errors import said_plainly

if TYPE_CHECKING:
    from lede.decode.model import Model
    from lede.policy import Policy


@said_plainly
@from_config
def report(
    *,
    prompt: Annotated[
        list[str] | None,
        Option("--prompt", "-p", help="A text to go on from; may be repeated. [dim]Default: held-out prompts[/]"),
    ] = None,
    policy: shared.PolicyOption = None,
    chat: Annotated[bool, Option("--chat", help="The prompts are messages to a chat model, to be answered.")] = False,
    model: shared.ModelOption = None,
    max_new_tokens: Annotated[int, Option(min=1, help="Tokens to write for each prompt.")] = 128,
    temperature: Annotated[float, Option(min=0.0, help="0: greedy.")] = 0.0,
    seed: Annotated[int | None, Option(min=0, help="Of sampling.")] = None,
    bench: Annotated[Path | None, Option(help="What lede bench --json printed: its tables and pictures too.")] = None,
    out: Annotated[Path, Option(help="The page, one file that loads nothing else.")] = Path("report.html"),
    runtime: shared.Runtime,
) -> None:
    """Make a page of it: who drafted each token and why, rounds over time, what the policy does.

    [dim]lede report --prompt "def mean(values):"[/]
    [dim]lede bench --json > bench.json; lede report --bench bench.json --out report.html[/]
    """
    if out.is_dir():
        raise BadParameter(f"--out {out} is a folder: name a file")
    texts = [shared.parse_text(text) for text in prompt or ()]

    from lede.commands.loading import check_model, chosen_policy, load_for
    from lede.serve.report import read_bench, render
    from lede.serve.report import report as contents
    from lede.terminal import bar, say

    check_model(model, runtime)
    measured = [] if bench is None else read_bench(bench)
    learned = chosen_policy(model, policy)
    prompts = [(text, [{"role": "user", "content": text}] if chat else text) for text in texts] or held_out(model)
    loaded = load_for(model, runtime, learned)
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}

    from lede.serve.generate import generate

    generate(loaded, prompts[0][1], learned, **settings | {"max_new_tokens": 8})  # the first is slower
    with bar("writing", len(prompts)) as advance:
        told = []
        for text, content in prompts:
            told.append(tell(loaded, learned, text, content, settings))
            advance(len(told), "")
    page = render(contents(loaded, learned, told, measured))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    say(f"drawn in {out}")


def held_out(model: str | None) -> "list[tuple[str, Any]]":
    """Two prompts that no policy was learned on, with what of each is shown."""
    from lede.collect.tasks import load_task
    from lede.commands.loading import usual_task

    return [(prompt.text, prompt.content) for prompt in load_task(usual_task(model), "test", 2)]


def tell(model: "Model", policy: "Policy | None", shown: str, content: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """One prompt decoded, as the page takes it; with a policy plainly as well, which writes the same text."""
    from lede.decode.generate import encode
    from lede.serve.generate import generate
    from lede.serve.report import Teller, summary
    from lede.serve.stream import Decoder

    ids = encode(model, content)
    done = generate(model, ids, policy, **settings)
    plain = None if policy is None else generate(model, ids, **settings | {"seed": done.seed})
    teller = Teller(Decoder(model.tokenizer, ids, skip_special_tokens=False), policy)
    return {"prompt": shown, "rounds": list(map(teller.round, done.rounds)), "summary": summary(done, plain)}
