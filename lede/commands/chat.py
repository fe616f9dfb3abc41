"""`lede chat`."""

import sys
from typing import Annotated

from typer import BadParameter, Option

from lede.commands import options as shared
from lede.commands.from_config import from_config
from lede.errors import Stopped, said_plainly


@said_plainly
@from_config
def chat(
    *,
    policy: shared.PolicyOption = None,
    plain: shared.PlainOption = False,
    system: Annotated[str, Option(help="A message to the model before all others, such as how to answer.")] = "",
    model: shared.ModelOption = None,
    max_new_tokens: Annotated[
        int | None, Option(min=1, help="Of an answer. [dim]Default: the generation config, else 128[/]")
    ] = None,
    temperature: Annotated[
        float | None, Option(min=0.0, help="0: greedy. [dim]Default: the generation config, else 0[/]")
    ] = None,
    seed: Annotated[int | None, Option(min=0, help="Of sampling; modulo 2^64.")] = None,
    trace: Annotated[bool, Option("--trace", help="Colour every token by the layer that drafted it.")] = False,
    runtime: shared.Runtime,
) -> None:
    """Talk to a model that answers: a message a line, from the terminal or a pipe; /help says what else a line can do.

    [dim]lede chat --model smollm2[/]
    [dim]lede chat --model smollm2 --trace --system "Answer in one sentence."[/]
    [dim]lede chat --model smollm2 < questions.txt > answers.txt[/]
    """

    from lede.commands.loading import check_model, chosen_policy, load_for
    from lede.decode.config import chat_template
    from lede.decode.errors import ModelError
    from lede.messages import messages
    from lede.policy import PolicyError
    from lede.serve.errors import ChatError
    from lede.terminal import console, show, warn

    folder = check_model(model, runtime)
    refusal = f"the model {model or 'lede-tiny'} has no chat template: talk to one that has, as with --model smollm2"
    if folder is not None and folder.is_dir() and not chat_template(folder):
        raise BadParameter(refusal)
    learned = chosen_policy(model, policy, plain)
    with messages() as next_message:  # at once, so that what is typed while the model is read arrives too
        loaded = load_for(model, runtime, learned)
        if not getattr(loaded.tokenizer, "chat_template", None):
            raise BadParameter(refusal)

        from rich.text import Text

        from lede.serve.chat import Chat

        options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        talk = Chat(loaded, learned, trace, console.color_system is None, system, **options)
        at_terminal = sys.stdin.isatty()
        if at_terminal:
            warn(f"{loaded.name}: /help for help, Ctrl-D to end", "dim")
            if trace:
                console.print(talk.legend())

        def write(piece: str | Text) -> None:
            if isinstance(piece, str):
                show(piece)
            else:
                console.print(piece, end="", soft_wrap=True)

        while True:
            try:
                line = next_message()
                if line.startswith("/") and "\n" not in line:
                    if (said := talk.command(line)) is None:
                        return
                elif line.strip():
                    said = talk.answer(line, write)
                    print(flush=True)
                else:
                    continue
                warn(said, "dim")
            except EOFError:
                return
            except UnicodeDecodeError:
                raise BadParameter(shared.NOT_UTF8) from None
            except KeyboardInterrupt as stop:
                if not at_terminal or isinstance(stop, Stopped):
                    raise
                warn("\nstopped: Ctrl-D or /quit ends", "dim")
            except (ChatError, ModelError, PolicyError, OSError) as error:
                if not at_terminal or isinstance(error, BrokenPipeError):
                    raise
                warn(str(error))
