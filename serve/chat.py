"""A conversation with a model, and the commands by which it is led."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from rich.text import Text

from lede.decode.generate import encode
from lede.decode.model import Model
from lede.decode.prefix import Prefixes
from lede.decode.round import Generation, Round
from lede.policy import Policy, load_policy
from lede.serve.errors import ChatError
from lede.serve.generate import generate, policy_rule
from lede.serve.stream import Decoder
from lede.serve.trace import Tracer

TIMED = 5  # tokens of plain decoding that the time saved is measured with; the first one is left out
HELP = """\
/policy PATH  decode with this policy (alone: say which)
/plain        without a policy, or with it again
/trace        colour tokens by the layer that drafted them
/reset        forget the conversation
/save FILE    write it as a line of JSON: messages
/help         this
/quit         end, as Ctrl-D does; Ctrl-C stops an answer"""


class Chat:
    """Turns of one conversation; `model` keeps what it has read of it.

    model: has a chat template. policy: decodes, unless `plain`; None: plain decoding. marks: show rejected drafts
    [-like this-], for where there are no styles. options: of `serve.generate.generate`.
    """

    def __init__(
        self,
        model: Model,
        policy: Policy | None,
        trace: bool = False,
        marks: bool = False,
        system: str = "",
        **options: Any,
    ):
        self.model, self.policy, self.options = model, policy, options
        self.trace, self._marks, self.plain = trace, marks, False
        self._named = "the one of the start" if policy is not None else "none"
        self._first = [{"role": "system", "content": system}] if system else []
        self.messages = [*self._first]
        model.prefixes = Prefixes()

    def legend(self) -> Text:
        """What the colours of a trace mean."""
        layers = () if self.policy is None else self.policy.layers
        return Tracer(Decoder(self.model.tokenizer), self.model.layer_count, self._marks).legend(layers)

    def answer(self, message: str, write: Callable[[str | Text], None]) -> str:
        """Answer a message, giving each piece of text to `write`; a line about speed.

        On a KeyboardInterrupt what is written by then stays as the answer. Raises ChatError for a conversation that has
        filled the context, ModelError; then the message was not said.
        """
        asked = [*self.messages, {"role": "user", "content": message}]
        ids, tokens = encode(self.model, asked), list[int]()
        if len(ids) >= (most := self.model.context):
            if len(asked) > len(self._first) + 1:
                raise ChatError(
                    f"the conversation has {len(ids)} tokens with this message, and the model's context is {most}: "
                    "/reset forgets it, and /save FILE keeps a copy before"
                )
            raise ChatError(f"the message has {len(ids)} tokens, and the model's context is {most}: shorten it")
        written = Decoder(self.model.tokenizer, ids if self.trace else (), skip_special_tokens=not self.trace)
        tracer = Tracer(written, self.model.layer_count, self._marks)

        def show(round_: Round) -> None:
            tokens.extend(round_.committed)
            write(tracer.round(round_) if self.trace else written.add(round_.committed))

        policy = None if self.plain else self.policy
        try:
            done = generate(self.model, ids, policy, on_round=show, **self.options)
            write(written.peek())
        finally:
            if tokens:
                text = self.model.tokenizer.decode(tokens, skip_special_tokens=True)
                self.messages = [*asked, {"role": "assistant", "content": str(text)}]
        return self._closing(done, self._saved(done) if policy is not None else None)

    def command(self, line: str) -> str | None:
        """Do what a line that begins with / says: what to tell about it; None: end. Raises ChatError, PolicyError."""
        name, _, argument = line.strip().partition(" ")
        argument = argument.strip()
        if name == "/quit":
            return None
        if name == "/help":
            return HELP
        if name == "/plain":
            self.plain = not self.plain
        elif name == "/policy" and argument:
            policy = load_policy(Path(argument).expanduser())
            policy_rule(self.model, policy)  # raises where it is another model's
            self.policy, self.plain, self._named = policy, False, argument
        elif name == "/trace":
            self.trace = not self.trace
            return f"trace: {'on' if self.trace else 'off'}"
        elif name == "/reset":
            self.messages = [*self._first]
            return "forgotten"
        elif name == "/save" and argument:
            with open(Path(argument).expanduser(), "w", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
            return f"saved {len(self.messages)} messages in {argument}"
        elif name != "/policy":
            unknown = f"{name} is no command: /help names them, and a space before it makes it a message"
            raise ChatError("/save: give a file" if name == "/save" else unknown)
        return f"policy: {'none (plain decoding)' if self.plain else self._named}"

    def _saved(self, done: Generation) -> float:
        """Seconds that decoding this answer took less than plain decoding, as measured over a few tokens behind it."""
        options = self.options | {"max_new_tokens": TIMED, "eos_token_id": []}
        plain = generate(self.model, done.prompt_ids + done.token_ids[:-1], None, **options)
        each = median(round_.seconds for round_ in (plain.rounds[1:] or plain.rounds))
        return each * len(done.token_ids) - (done.seconds - done.prefill_seconds)

    def _closing(self, done: Generation, saved: float | None) -> str:
        parts = [f"{len(done.token_ids)} tokens", f"{done.tokens_per_s:.0f} tokens/s"]
        if done.acceptance is not None:
            parts.append(f"acceptance {done.acceptance:.0%}")
        if saved is not None:
            parts.append(f"{saved:.1f} s saved" if saved >= 0 else f"{-saved:.1f} s lost")
        if done.finish == "context":
            parts.append(f"the context of {self.model.context} tokens is full: /reset forgets the conversation")
        elif done.finish != "stop":
            parts.append(f"ended by {done.finish.replace('_', ' ')}")
        return " · ".join(parts)
