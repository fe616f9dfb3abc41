"""What to generate from: prompts in a JSON-lines file, or function heads of CPython's standard library."""

import ast
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from lede.collect import stdlib
from lede.collect.errors import PromptError
from lede.ground import fingerprint, stable_hash
from lede.replay.split import SHARES, SPLITS, Split, group_of, split_of
from lede.replay.store import open_store, present

AnySplit = Split | Literal["all"]
LINES_BEFORE = 20  # of the module, above a function's head
PER_MODULE = 50  # prompts at most, so that one long module does not fill a split
MAX_CHARACTERS = 1200  # of a function-head prompt; longer ones lose their first lines


class Sampling(NamedTuple):
    """How a text was sampled when it was served, so that it can be written again."""

    seed: int
    options: Mapping[str, Any]  # temperature, top_k, … by names of a GenerationConfig


@dataclass(frozen=True)
class Prompt:
    """One text to go on from, or a conversation to answer.

    `id` is unique in its collection and decides the prompt's random seed; `task` groups prompts in tables; `reference`
    is what a person wrote there, where that is known; `tokens`, where given, are used instead of encoding `text`.
    `group` is what it shares with prompts that must be on the same side of the split (module, article, conversation),
    by default only itself; `split` is the side, by default the group's. `messages` are a conversation's so far, {role,
    content} each, and `turns` what its user says to the answers; `text` is then what the user said first. `sampling` is
    how its answer was sampled, where it was.
    """

    id: str
    task: str
    text: str
    reference: str | None = None
    tokens: tuple[int, ...] | None = None
    group: str = ""
    split: Split = ""  # type: ignore[assignment]  # never empty once it is made
    messages: tuple[dict[str, str], ...] = ()
    turns: tuple[str, ...] = ()
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", group_of(self.text if self.tokens is None else self.tokens))
        if self.split not in SPLITS:
            object.__setattr__(self, "split", split_of(self.group))

    def turn(self, said: Sequence[str] = ()) -> "Prompt":
        """The prompt as it is after the answers `said` to its first turns: all of the conversation before the next."""
        if not said:
            return self
        messages = list(self.messages)
        for answer, reply in zip(said, self.turns, strict=False):
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": reply}]
        name, rest = f"{self.id}/{len(said) + 1}", self.turns[len(said) :]
        return replace(self, id=name, messages=tuple(messages), turns=rest, reference=None)

    @property
    def content(self) -> Any:
        """What `decode.generate.encode` takes."""
        return self.tokens if self.tokens is not None else self.messages or self.text


def load_prompts(path: Path, split: AnySplit = "all") -> list[Prompt]:
    """The prompts of a JSON-lines file that are on this side of the split, in its order; blank lines are skipped.

    Every line is an object with `prompt` (a string), `messages` (a conversation, {role, content} each; an answer at its
    end is its reference) or `turns` (what a user says, each after the answer before) and, if wanted, `id` or
    `question_id` (a string or a whole number; otherwise file name and line number), `task` or `category`, `reference`
    (a string, or a list, of which the first is used), and `group` or `conversation` (a string or a whole number, shared
    by the lines of one conversation; otherwise lines whose user begins alike are one). A dataset's folder has the
    prompts that were recorded there. Raises PromptError that names the line; DatasetError.
    """
    if present(open_store(path), "dataset.json"):
        return _on_side(path, split, recorded(path))
    try:
        lines = open_store(path.parent).read(path.name).removeprefix(b"\xef\xbb\xbf").split(b"\n")
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
    return _on_side(path, split, prompts)


def recorded(path: Path) -> list[Prompt]:
    """The prompts of a dataset's episodes, each once; sampled ones once for each seed and settings.

    Raises PromptError where their tokens are not there.
    """
    from lede.replay.reader import open_dataset  # pyarrow, which other prompts do without

    names = ["prompt_tokens", "task", "split", "group", "seed", "temperature", "top_k", "top_p", "options"]
    rows, _ = open_dataset(path).read("episodes", names)
    found: dict[str, Prompt] = {}
    for row in rows.to_pylist():
        ids, name, sampling = tuple(row["prompt_tokens"]), group_of(row["prompt_tokens"]), None
        if row["temperature"]:
            options = {key: row[key] for key in ("temperature", "top_k", "top_p")}
            sampling = Sampling(row["seed"], options | json.loads(row["options"] or "{}"))
            name = f"{name}/{fingerprint(repr(sampling))}"
        prompt = Prompt(name, row["task"], "", None, ids, row["group"], row["split"], sampling=sampling)
        if ids:
            found.setdefault(name, prompt)
    if not found:
        raise PromptError(f"{path} has no prompts: it was recorded without their tokens (lede serve --record-text)")
    return list(found.values())


def _on_side(path: Path, split: AnySplit, prompts: list[Prompt]) -> list[Prompt]:
    if not (chosen := [prompt for prompt in prompts if split in (prompt.split, "all")]):
        raise PromptError(f"{path} has no prompts in its split {split}: add some, or take --split all")
    return chosen


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
    messages: tuple[dict[str, str], ...] = ()
    turns: tuple[str, ...] = ()
    answer = None
    if "prompt" in row:
        text = _string(row["prompt"], "prompt")
    elif "turns" in row or "messages" in row:
        messages, turns, answer = _conversation(row)
        text = next((m["content"] for m in messages if m["role"] == "user"), "")
    else:
        raise PromptError("has neither `prompt` nor `turns` nor `messages`")
    if not text.strip():
        raise PromptError("the prompt is empty")
    name, group = row.get("id", row.get("question_id")), row.get("group", row.get("conversation"))
    task, reference = row.get("task", row.get("category")), row.get("reference", answer)
    while isinstance(reference, list):  # one for each turn, or several good answers to one
        reference = reference[0] if reference else None
    return Prompt(
        id=default_id if name is None else _name(name, "id"),
        task="prompts" if task is None else _string(task, "task"),
        text=text,
        reference=None if reference is None else _string(reference, "reference"),
        group="" if group is None else _name(group, "group"),
        messages=messages,
        turns=turns,
    )


def _conversation(row: dict[str, Any]) -> tuple[tuple[dict[str, str], ...], tuple[str, ...], str | None]:
    """The messages before the first answer, what the user says after it, and the answer where the row has one."""
    name = "messages" if "messages" in row else "turns"
    given, kind = row[name], "an object" if name == "messages" else "a string"
    if not isinstance(given, list) or not given:
        raise PromptError(f"`{name}` must be a list with {kind} in it, not {_kind(given)}")
    if name == "turns":
        first, *rest = (_string(turn, f"turns[{i}]") for i, turn in enumerate(given))
        return ({"role": "user", "content": first},), tuple(rest), None
    messages = []
    for i, message in enumerate(given):
        if not isinstance(message, dict):
            raise PromptError(f"`messages[{i}]` must be an object, not {_kind(message)}")
        messages.append({key: _string(message.get(key), f"messages[{i}].{key}") for key in ("role", "content")})
    answer = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
    return tuple(messages), (), answer


def _name(value: Any, name: str) -> str:
    return str(value) if type(value) is int else _string(value, name)  # a bool is no number here


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


def interleaved(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Each side's prompts in their order, the sides mixed by their shares for as long as each lasts."""
    return by_turns(prompts, lambda prompt: prompt.split, SHARES)


def by_turns(
    prompts: Iterable[Prompt], kind: Callable[[Prompt], Any], shares: Mapping[Any, float] = MappingProxyType({})
) -> list[Prompt]:
    """The first prompt of every kind, then the second, and so on; of kinds with larger `shares` more in a turn."""
    count: Counter[Any] = Counter()
    placed: list[tuple[float, Prompt]] = []
    for prompt in prompts:
        count[own := kind(prompt)] += 1
        placed.append((count[own] / shares.get(own, 1), prompt))
    return [prompt for _, prompt in sorted(placed, key=lambda pair: pair[0])]


def stdlib_prompts(split: AnySplit, limit: int | None = None, seed: int = 0) -> list[Prompt]:
    """Function heads from held-out modules of the running interpreter, one of each module by turns, drawn by `seed`.

    A prompt is a function's signature and, where it has one, its docstring, with the lines above them; its `reference`
    is the text that follows in the module, to the function's end. Its group is the module, and a text that several
    modules have is the most held-out one's. None is in the embedded model's training text. Raises PromptError where
    this Python comes without the source of its library.
    """
    by_id: dict[str, Prompt] = {}  # a function defined twice counts once
    for module in stdlib.modules():
        if module.held_out:
            for prompt in _function_heads(module.name, stdlib.read(module) or ""):
                by_id.setdefault(prompt.id, prompt)
    if not by_id:
        raise PromptError("this Python comes without the source of its library: give a prompt file")
    drawn = sorted(by_id.values(), key=lambda p: stable_hash(f"{seed}:{p.id}"))
    owner: dict[str, Prompt] = {}  # of each text
    for prompt in sorted(drawn, key=lambda p: SPLITS.index(p.split), reverse=True):
        owner.setdefault(prompt.text, prompt)
    taken: Counter[str] = Counter()
    kept = []
    for prompt in drawn:
        if owner[prompt.text] is prompt and split in (prompt.split, "all") and taken[prompt.group] < PER_MODULE:
            kept.append(prompt)
            taken[prompt.group] += 1
    return interleaved(by_turns(kept, lambda prompt: prompt.group))[:limit]


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
        yield Prompt(f"{module}:{name}", "stdlib", text, reference, group=module)


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
