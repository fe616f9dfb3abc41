"""What to generate from: prompts in a JSON-lines file, or function heads of CPython's standard library."""

import ast
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lede.collect import stdlib
from lede.collect.errors import PromptError

Split = Literal["train", "validation", "test"]
# Held-out modules have one of these ten numbers each.
SPLITS: dict[Split, range] = {"train": range(0, 6), "validation": range(6, 7), "test": range(7, 10)}
LINES_BEFORE = 20  # of the module, above a function's head
PER_MODULE = 50  # prompts at most, so that one long module does not fill a split
MAX_CHARACTERS = 1200  # of a function-head prompt; longer ones lose their first lines


@dataclass(frozen=True)
class Prompt:
    """One text to go on from.

    `id` is unique in its collection and decides the prompt's random seed; `task` groups prompts in tables; `reference`
    is what a person wrote there, where that is known; `tokens`, where given, are used instead of encoding `text`.
    """

    id: str
    task: str
    text: str
    reference: str | None = None
    tokens: tuple[int, ...] | None = None


def load_prompts(path: Path) -> list[Prompt]:
    """The prompts of a JSON-lines file, in its order; blank lines are skipped.

    Every line is an object with `prompt` (a string) or `turns` (a list of strings, the first is used) and, if wanted,
    `id` or `question_id` (a string or a whole number; otherwise file name and line number), `task` or `category`, and
    `reference` (a string, or a list, of which the first
    is used). Raises PromptError that names the line.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise PromptError(f"cannot read prompts from {path}: {error.strerror}") from None
    prompts: list[Prompt] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompt = _parse(line, default_id=f"{path.stem}:{number}")
            if prompt.id in line_of:
                raise PromptError(f"id {prompt.id!r} is already that of line {line_of[prompt.id]}")
        except PromptError as error:
            raise PromptError(f"{path}, line {number}: {error}") from None
        line_of[prompt.id] = number
        prompts.append(prompt)
    if not prompts:
        raise PromptError(f'{path} holds no prompts: give one JSON object a line, such as {{"prompt": "Once upon"}}')
    return prompts


def _parse(line: bytes, default_id: str) -> Prompt:
    """One line of a prompt file."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise PromptError("not UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise PromptError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise PromptError(f"expected a JSON object, not {_kind(row)}")
    if "prompt" in row:
        text = _string(row["prompt"], "prompt")
    elif "turns" in row:
        text = _string(_first(row["turns"], "turns"), "turns[0]")
    else:
        raise PromptError("has neither `prompt` nor `turns`")
    if not text.strip():
        raise PromptError("the prompt is empty")
    number = row.get("id", row.get("question_id"))
    if type(number) is int:  # not bool
        number = str(number)
    task = row.get("task", row.get("category"))
    reference = row.get("reference")
    while isinstance(reference, list):  # one for each turn, or several good answers to one
        reference = reference[0] if reference else None
    return Prompt(
        id=default_id if number is None else _string(number, "id"),
        task="prompts" if task is None else _string(task, "task"),
        text=text,
        reference=None if reference is None else _string(reference, "reference"),
    )


def _first(value: Any, name: str) -> Any:
    if not isinstance(value, list) or not value:
        raise PromptError(f"`{name}` must be a list with a string in it, not {_kind(value)}")
    return value[0]


def _string(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise PromptError(f"`{name}` must be a string, not {_kind(value)}")
    if any("\ud800" <= c <= "\udfff" for c in value):  # JSON can say "\ud800"; no tokenizer can encode it
        raise PromptError(f"`{name}` holds half of a surrogate pair, which is not text")
    return value


def _kind(value: Any) -> str:
    """A JSON value's type, as its writer would call it."""
    if isinstance(value, list) and not value:
        return "an empty list"
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def stdlib_prompts(split: Split, limit: int | None = None, seed: int = 0) -> list[Prompt]:
    """Function heads from held-out modules of the running interpreter, in an order drawn from `seed`.

    A prompt is a function's signature and, where it has one, its docstring, with the lines above them; its `reference`
    is the text that follows in the module, to the function's end. No module is in two splits, and none is in the
    embedded model's training text. Raises PromptError where `split` is unknown or this Python comes without the source
    of its library.
    """
    if split not in SPLITS:
        raise PromptError(f"no split {split!r} of the standard library: choose one of {', '.join(SPLITS)}")
    found: dict[str, Prompt] = {}  # by id: a function defined twice counts once
    for module in stdlib.modules():
        if module.held_out and stdlib.bucket(f"split of {module.name}", 10) in SPLITS[split]:
            for prompt in _function_heads(module.name, stdlib.read(module) or ""):
                found.setdefault(prompt.id, prompt)
    if not found:
        raise PromptError("this Python comes without the source of its library: give a prompt file")
    chosen: dict[str, Prompt] = {}  # by text: some modules are copies of others
    taken: Counter[str] = Counter()
    for prompt in sorted(found.values(), key=lambda p: stdlib.bucket(f"{seed}:{p.id}", 2**64)):
        module_name = prompt.id.partition(":")[0]
        if prompt.text not in chosen and taken[module_name] < PER_MODULE:
            chosen[prompt.text] = prompt
            taken[module_name] += 1
    return list(chosen.values())[:limit]


def _function_heads(module: str, source: str) -> Iterator[Prompt]:
    """A prompt for each function of `source` that has more than a docstring."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # the test suite's bad examples
        return
    lines = source.split("\n")
    for name, function in _functions(tree, ""):
        body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
        if not body:
            continue
        start, end = _first_line(function) - 1, _first_line(body[0]) - 1  # the head is lines[start:end]
        while end > start and (not (line := lines[end - 1].strip()) or line.startswith("#")):
            end -= 1  # comments and blank lines belong to the body
        if end <= start or not lines[end - 1].rstrip().endswith((":", '"', "'")):
            continue  # the body begins on the signature's line
        text = "\n".join(lines[max(start - LINES_BEFORE, 0) : end])
        if len(text) > MAX_CHARACTERS:
            text = text[text.find("\n", len(text) - MAX_CHARACTERS) + 1 :]
        reference = "\n" + "\n".join(lines[end : function.end_lineno])
        yield Prompt(f"{module}:{name}", "stdlib", text, reference)


def _first_line(node: ast.stmt) -> int:
    """The number of a statement's first line, its decorators' where it has some."""
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function below `node` with its qualified name, in order of the source."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)
