"""Conversations as a checkpoint's chat template writes them, as `transformers` does but without importing it."""

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lede.decode.errors import ModelError


def chat_text(name: str, tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """The text before the answer of model `name` to [{role, content}, …], special tokens included.

    Raises ModelError for messages of another form, without a template, and for messages that the template refuses.
    """
    plain = [{key: message.get(key) for key in ("role", "content")} for message in messages]
    if not all(isinstance(value, str) for message in plain for value in message.values()):
        raise ModelError("a message of a conversation is an object with role and content, both of them text")
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        template = template.get("default")
    if not template:
        raise ModelError(f"the model {name} has no chat template: give a prompt, not messages or turns, and no --chat")
    try:
        given = tokenizer.special_tokens_map | {"messages": plain, "tools": None, "documents": None}
        return _compiled(template).render(**given, add_generation_prompt=True)
    except TemplateError as error:
        raise ModelError(f"the chat template of {name} takes no such conversation: {error}") from None


@functools.cache
def _compiled(template: str) -> Template:
    extensions = [_Marked, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda kind: datetime.now().strftime(kind)}
    return environment.from_string(template)


class _Marked(Extension):
    """{% generation %} … {% endgeneration %}, which marks answers for training and changes no text."""

    tags = {"generation"}  # noqa: RUF012, as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """JSON as it is: jinja2's own filter escapes what HTML must not hold."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
    raise TemplateError(message)
