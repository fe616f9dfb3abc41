"""`lede serve`."""

import contextlib
import logging
import signal
import socket
import threading
from pathlib import Path
from typing import Annotated, Any

from typer import BadParameter, Option

from lede.commands import options as shared
from lede.commands.from_config import from_config
from lede.errors import said_plainly


@said_plainly
@from_config
def serve(
    *,
    policy: Annotated[
        list[Path] | None,
        Option(
            help="A policy's folder; may be repeated: requests name one, as its folder is called, or get the first. "
            "[dim]Default: policies/<model name>, or the embedded model's own[/]"
        ),
    ] = None,
    plain: shared.PlainOption = False,
    model: shared.ModelOption = None,
    host: Annotated[
        str, Option(help="The address to listen at; any but this machine's own needs --api-key.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0: one that is free.")] = 8000,
    api_key: Annotated[
        str | None, Option(envvar="LEDE_API_KEY", help="What clients must give as their API key.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        Option(
            help="Pages from there may ask too, as https://example.org, or * for any; may be repeated. "
            "[dim]This machine's own always may[/]"
        ),
    ] = None,
    queue: Annotated[int, Option(min=1, help="Requests that may wait; more are refused.")] = 16,
    timeout: Annotated[float, Option(min=0.1, help="Seconds from a request to the end of its answer.")] = 600,
    max_prompt: Annotated[
        int | None, Option(min=1, help="Tokens of a prompt. [dim]Default: the model's context[/]")
    ] = None,
    record: Annotated[
        Path | None, Option(help="Write the policies' decisions to this dataset, to learn the next policy from.")
    ] = None,
    record_text: Annotated[bool, Option("--record-text", help="With the tokens of prompts and answers.")] = False,
    epsilon: Annotated[
        float, Option(min=0.0, max=1.0, help="Share of recorded decisions drawn at random; costs some speed.")
    ] = 0.0,
    runtime: shared.Runtime,
) -> None:
    """Answer requests in the form of OpenAI's API, one after another, until Ctrl-C or SIGTERM.

    SIGHUP reads the policies anew. Stopping finishes the answer that is being written.

    [dim]lede serve[/]
    [dim]lede serve --model smollm2 --policy policies/smollm2 --port 8080[/]
    [dim]lede serve --record data/served --epsilon 0.1[/]
    [dim]curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{"prompt": "def mean("}'[/]
    """
    if plain and policy:
        raise BadParameter("--plain and --policy exclude each other")

    import uvicorn

    from lede.commands.loading import check_model, load_for
    from lede.decode.prefix import Prefixes
    from lede.decode.rules import QPolicy
    from lede.paths import usual_policy
    from lede.policy import load_policy
    from lede.serve.guard import is_loopback, is_origin
    from lede.serve.metrics import Metrics
    from lede.serve.server import Limits, Policies, app
    from lede.serve.worker import Worker, log
    from lede.terminal import errors, say

    if not (api_key or is_loopback(host)):
        raise BadParameter(f"--host {host}: other machines can reach this address, so give --api-key (or LEDE_API_KEY)")
    for origin in allow_origin or ():
        if not is_origin(origin):
            raise BadParameter(f"--allow-origin {origin}: give a scheme and a host, as https://example.org, or *")
    if record is None and (record_text or epsilon):
        raise BadParameter("--record-text and --epsilon go with --record")
    check_model(model, runtime)
    usual = None if plain else usual_policy(model)
    folders: dict[str, Path] = {}
    for folder in policy or ([usual] if usual is not None else []):
        if folders.setdefault(name := folder.resolve().name, folder) is not folder:
            raise BadParameter(f"--policy {folder}: there is a policy {name} already, give its folder another name")
    learned = [load_policy(folder) for folder in folders.values()]
    if record is not None and not learned:
        raise BadParameter("--record writes a policy's decisions, and there is none: name one with --policy")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else answers wait 40 ms for an ACK
        loaded = load_for(model, runtime, *learned)
        policies = Policies(loaded, folders)
        recorder = None
        if record is not None:
            from lede.collect.served import Recorder

            with errors.status("measuring what decoding costs here (once)"):
                recorder = Recorder(loaded, learned[0], record, epsilon, record_text)
        loaded.prefixes = Prefixes()  # not before: what reading a prompt costs was measured
        worker = Worker(loaded, queue, Metrics(), recorder)

        def swap() -> None:
            try:
                policies.swap()
            except Exception as error:
                log.error("the policies stay as they were: %s", error)

        class Server(uvicorn.Server):
            def handle_exit(self, *signals: Any) -> None:
                worker.closing = True
                super().handle_exit(*signals)

        limits = Limits(timeout, max_prompt, api_key, tuple(allow_origin or ()))
        served = app(loaded, policies, worker, limits, recorder.rule if recorder else QPolicy)
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # clients that leave are no news
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=swap).start())
        named = f"[{host}]" if ":" in host else host
        say(f"{loaded.name} at http://{named}:{listening.getsockname()[1]}/v1, {', '.join(folders) or 'no policy'}")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it is done
            Server(uvicorn.Config(served, log_level="warning")).run(sockets=[listening])
        if recorder is not None:
            recorder.close()
