"""Options made of the fields of dataclasses, so that a setting is named, explained and limited where it is defined."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from typer import Option

from lede.commands.options import parse_bytes, parse_layers
from lede.ground import Bytes

Given = dict[str, Any]
PARSERS: dict[Any, Callable[[str], Any]] = {tuple[int, ...]: parse_layers, Bytes: parse_bytes}


def from_config(command: Callable[..., None]) -> Callable[..., None]:
    """A command some of whose parameters stand for the options that `ground.option` made of a dataclass's fields.

    `name: Config` gets a Config; `name: Annotated[Given, Config, ...]` gets, of one or several dataclasses, only the
    fields that were given. The command raises BadParameter for layers or bytes that are written wrong.
    """
    signature = inspect.signature(command)
    parameters, groups = list[inspect.Parameter](), dict[str, dict[str, Field[Any]]]()
    for name, parameter in signature.parameters.items():
        kinds = getattr(parameter.annotation, "__metadata__", (parameter.annotation,))
        if configs := [kind for kind in kinds if isinstance(kind, type) and is_dataclass(kind)]:
            groups[name] = {one.name: one for config in configs for one in fields(config) if one.metadata}
            parameters += [_parameter(one, configs) for one in groups[name].values()]
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    def wrapped(**values: Any) -> None:
        for name, group in groups.items():
            texts = {one: values.pop(one) for one in group}
            given = {one: _parsed(group[one], text) for one, text in texts.items() if text is not None}
            kind = signature.parameters[name].annotation
            values[name] = kind(**given) if isinstance(kind, type) else given
        command(**values)

    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapped


def flag(one: Field[Any]) -> str:
    """What the option of a field is called."""
    return next(iter(one.metadata["names"]), f"--{one.name.replace('_', '-')}")


def _parameter(one: Field[Any], configs: Sequence[type]) -> inspect.Parameter:
    """What typer makes the option of; its help names the field's default, where all dataclasses have the same."""
    text, kind = one.metadata["help"], _kind(one)
    defaults = {getattr(config, one.name) for config in configs if hasattr(config, one.name)}
    if "Default:" not in text and defaults == {one.default} and one.default not in (None, ()):
        text += f" [dim]Default: {one.default}[/]"
    made = Option(None, *one.metadata["names"], **one.metadata["limits"], help=text)
    typed = (kind if kind in (bool, int, float) else str) | None
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=made, annotation=typed)


def _kind(one: Field[Any]) -> Any:
    """The type of a field, without its None."""
    return get_args(one.type)[0] if get_origin(one.type) in (Union, UnionType) else one.type


def _parsed(one: Field[Any], value: Any) -> Any:
    parse = PARSERS.get(_kind(one))
    return value if parse is None else parse(value)
