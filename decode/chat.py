"""Conversations as a checkpoint's chat template writes them, as `transformers` does but without importing it."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lede.decode.errors import ModelError

PROMPT = "add_generation_prompt"
OWN = {"messages", "tools", PROMPT}  # of a template's variables, those that are not a caller's
HERE = "lede-goes-on-here "  # where the last message ends; the space tells whether the template trims
FAULTS = (TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError)


class MessageError(ModelError):
    """What of a conversation the chat template does not take; `place`: where it is, as messages[1].name."""

    def __init__(self, place: str, what: str):
        super().__init__(f"{place}: {what}")
        self.place = place


def chat_text(
    name: str,
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text before the answer of model `name` to [{role, content}, …], special tokens included.

    Messages may have more keys, such as tool_calls, and then no content; what is None is left out. The text ends where
    an answer begins; without `add_generation_prompt` where the last message ends, and with `continue_final_message`
    where its content does. `variables` are others that the template reads. Raises ModelError for messages of another
    form, without a template, and for messages that the template refuses; and MessageError for what it would pass over:
    a variable or a key that it does not read, a message that it does not write.
    """
    variables = variables or {}
    said = [_Message({key: value for key, value in message.items() if value is not None}) for message in messages]
    if not all(isinstance(m.get("role"), str) and isinstance(m.get("content", ""), str) and len(m) > 1 for m in said):
        raise ModelError("a message of a conversation is an object with role and content, both of them text")
    source = getattr(tokenizer, "chat_template", None)
    if isinstance(source, Mapping):
        source = source.get("default")
    if not source:
        raise ModelError(f"the model {name} has no chat template: give a prompt, not messages or turns, and no --chat")
    last = said[-1].get("content", "").strip()
    if continue_final_message:
        if not last:
            raise MessageError(f"messages[{len(said) - 1}]", "it has no content that an answer could go on from")
        said[-1]["content"] += HERE
    try:
        template, known = _compiled(source)
        asked = set(variables) if add_generation_prompt or continue_final_message else {*variables, PROMPT}
        for variable in sorted(asked - known | OWN & variables.keys()):
            raise MessageError(variable, f"the chat template of {name} does not read it: leave it out")
        given = tokenizer.special_tokens_map | {"tools": None, "documents": None} | variables
        given[PROMPT] = add_generation_prompt and not continue_final_message
        render = functools.partial(template.render, given)
        for message in said:
            message.read.clear()
        text = render(messages=said)
        _check_read(name, said)
        _check_written(name, said, text, render)
    except ModelError:
        raise
    except FAULTS as error:
        raise ModelError(f"the chat template of {name} takes no such conversation: {error}") from None
    if not continue_final_message:
        return text
    before, found, after = text.rpartition(HERE.rstrip())
    if not found or last not in before:
        raise ModelError(
            f"the chat template of {name} does not write the last message as it is: nothing can go on there"
        )
    return before if after.startswith(" ") else before.rstrip()


class _Message(dict[str, Any]):
    """A message that knows which of its keys were read."""

    def __init__(self, content: Mapping[str, Any]):
        super().__init__(content)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self.read.update(super().__iter__())
        return super().__iter__()

    def keys(self) -> Any:
        self.read.update(super().__iter__())
        return super().keys()

    def values(self) -> Any:
        self.read.update(super().__iter__())
        return super().values()

    def items(self) -> Any:
        self.read.update(super().__iter__())
        return super().items()


def _check_read(name: str, said: Sequence[_Message]) -> None:
    """Raise MessageError for a key of a message that the template has not looked at."""
    for i, message in enumerate(said):
        for key in sorted({*dict.keys(message)} - message.read - {"role", "content"}):
            what = (
                f"the chat template of {name} does not read it in a message of the role {dict.get(message, 'role')!r}"
            )
            raise MessageError(f"messages[{i}].{key}", f"{what}: leave it out")


def _check_written(name: str, said: Sequence[_Message], text: str, render: Callable[..., str]) -> None:
    """Raise MessageError for a message that `text` would be the same without."""
    marks = {i: f"z{i}qz{i}qz" for i, message in enumerate(said) if "content" in message}
    marked = [
        message | {"content": message["content"] + marks[i]} if i in marks else message
        for i, message in enumerate(said)
    ]
    try:
        seen = render(messages=marked)
    except FAULTS:
        seen = ""
    for i in (i for i, mark in marks.items() if mark not in seen):
        without = None
        with contextlib.suppress(*FAULTS):  # else it cannot be left out: it is read
            without = render(messages=[*said[:i], *said[i + 1 :]])
        if without == text:
            what = (
                f"the chat template of {name} writes no message of the role {said[i]['role']!r} here: give another role"
            )
            raise MessageError(f"messages[{i}]", what)


@functools.cache
def _compiled(template: str) -> tuple[Template, set[str]]:
    """The template, and the names of the variables that it reads."""
    extensions = [_Marked, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda kind: datetime.now().strftime(kind)}
    known = meta.find_undeclared_variables(environment.parse(template)) - set(environment.globals)
    return environment.from_string(template), known


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
