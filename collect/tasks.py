"""Prompts by the name of a task: the paper's five (§4.1), from public data sets, functions of the standard library,
requests to a chat model that are in the package, and Spec-Bench's questions.

The data come through the `datasets` library (the extra `bench`), from the hub or from files: where the environment
variable LEDE_DATASETS names a folder that has a subfolder called like the task, the task is read there,
from `<split>.jsonl` or `<split>.parquet` (or parts of one, `train-00000-of-00003.parquet`).

Formats are those of LayerSkip's benchmark, on which the paper's is built; LayerSkip has no Alpaca, which has its own.
What the paper does not say is chosen here: the summary gets one solved example (LayerSkip's published one-shot
setting), the other tasks none.
"""

import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lede.collect.errors import PromptError
from lede.collect.prompts import AnySplit, Prompt, by_turns, interleaved, load_prompts, stdlib_prompts
from lede.ground import stable_hash
from lede.replay.split import SPLITS, Split, group_of, split_of

FOLDER = "LEDE_DATASETS"
LM_WORDS = 100  # of an article, to go on from
CHAT, SPEC_BENCH = "chat", "spec_bench"
# of Spec-Bench's categories those that are MT-Bench's, ten questions each
MT_BENCH = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
SHOT_CHOICE = 50  # the example is the shortest of so many, so that it leaves room in the context


@dataclass(frozen=True)
class Task:
    """One task: where its rows come from, how a row becomes a prompt, and how the paper decodes it.

    `splits` gives the data set's split for each of ours. Where all are one, that one is divided by group; otherwise the
    data set's own are honoured and recorded, but train leaves out what validation or test hold as well. A row's group
    is a hash of the first of its `columns`. `read` takes the strings of `columns` and returns a prompt and its
    reference.
    """

    name: str
    dataset: tuple[str, ...] = ()  # on the hub: name and configuration; empty: the interpreter's standard library
    columns: tuple[str, ...] = ()
    read: Callable[..., tuple[str, str]] = lambda prompt, reference: (prompt, reference)
    splits: tuple[str, ...] = SPLITS  # for train, validation, test
    shots: int = 0  # solved examples from the train split in front of every prompt
    temperature: float = 0.0  # 0: greedy
    max_new_tokens: int = 512

    @property
    def divided(self) -> bool:
        """Whether our splits are parts of one split of the data set."""
        return len(set(self.splits)) == 1

    def source_split(self, split: Split) -> str:
        """The data set's name for our split."""
        return dict(zip(SPLITS, self.splits, strict=True))[split]


def _summary(article: str, highlights: str) -> tuple[str, str]:
    return f"Article: {article}\nSummary:", " " + " ".join(highlights.split())


def _beginning(article: str) -> tuple[str, str]:
    words = article.split()
    return " ".join(words[:LM_WORDS]), " ".join(words[LM_WORDS:])


def _instruction(instruction: str, context: str, output: str) -> tuple[str, str]:
    """Stanford Alpaca's two templates, with an input and without."""
    kind = ", paired with an input that provides further context" if context else ""
    middle = f"### Input:\n{context}\n\n" if context else ""
    return (
        f"Below is an instruction that describes a task{kind}. Write a response that appropriately completes the "
        f"request.\n\n### Instruction:\n{instruction}\n\n{middle}### Response:\n",
        output,
    )


CNN_DM = ("abisee/cnn_dailymail", "3.0.0")
TASKS = {
    task.name: task
    for task in (
        Task("stdlib", max_new_tokens=256),  # the body of a function
        Task(CHAT, max_new_tokens=256),
        Task(SPEC_BENCH, max_new_tokens=256),
        Task("cnn_dm_summarization", CNN_DM, ("article", "highlights"), _summary, shots=1),
        Task("cnn_dm_lm", CNN_DM, ("article",), _beginning, temperature=0.6),
        # a request to an assistant, whose reference is its parse
        Task("topv2", ("WillHeld/top_v2",), ("utterance", "semantic_parse"), splits=("train", "eval", "test")),
        Task("alpaca", ("tatsu-lab/alpaca",), ("instruction", "input", "output"), _instruction, ("train",) * 3),
        Task("humaneval", ("openai/openai_humaneval",), ("prompt", "canonical_solution"), splits=("test",) * 3),
    )
}


def load_task(name: str, split: AnySplit, limit: int | None = None, seed: int = 0) -> list[Prompt]:
    """The prompts of a task's split, in an order drawn from `seed`: the first `limit` of them, or all.

    No text and no group is in two splits, and no text twice in one. Where the data set has splits of its own, `all`
    mixes them by the shares that groups have elsewhere. A prompt's id is task, the data set's split and its row there.
    Raises PromptError for a task that there is not, for data that cannot be loaded or have other columns;
    ModuleNotFoundError where a task needs the library `datasets` and it is not installed.
    """
    if name not in TASKS:
        raise PromptError(f"no task {name!r}: choose one of {', '.join(TASKS)}")
    task = TASKS[name]
    if name in (CHAT, SPEC_BENCH):
        every = load_prompts(Path(__file__).with_name("chat.jsonl")) if name == CHAT else _spec_bench(split)
        mine = [p for p in every if split in (p.split, "all")]
        drawn = sorted(mine, key=lambda p: stable_hash(f"{seed}:{p.id}"))
        spread = by_turns(by_turns(drawn, lambda p: p.task), lambda p: p.task.partition("/")[0])
        return interleaved(spread)[:limit]
    if not task.dataset:
        return stdlib_prompts(split, limit, seed)
    if split == "all" and not task.divided:
        return interleaved(prompt for side in SPLITS for prompt in load_task(name, side, limit, seed))[:limit]
    side = SPLITS[0] if split == "all" else split  # of a divided data set all are in one split
    shots = _shots(task)
    before = "".join(f"{text}{answer}\n" for text, answer in shots)
    if shots:
        before += "\n"
    seen = {group_of(text) for text, _ in shots}
    held_out: set[str] = set()
    if not task.divided:
        for later in SPLITS[SPLITS.index(side) + 1 :]:
            if _files(task, later) == []:
                continue  # a copy without them
            for _, group, text, _ in _texts(task, later):
                held_out |= {group, group_of(text)}
    prompts: list[Prompt] = []
    for row, group, text, reference in _texts(task, side, seed):
        if limit is not None and len(prompts) >= limit:
            break
        if not text.strip() or (mark := group_of(text)) in seen or {mark, group} & held_out:
            continue
        seen.add(mark)
        own = split_of(group) if task.divided else side
        if split in (own, "all"):
            answer, prompt_id = reference if reference.strip() else None, f"{name}:{task.source_split(side)}:{row}"
            prompts.append(Prompt(prompt_id, name, before + text, answer, group=group, split=own))
    if not prompts and limit != 0:
        raise PromptError(f"the task {name} has no prompts in its split {split}")
    return prompts


def _spec_bench(split: AnySplit) -> list[Prompt]:
    """Spec-Bench's questions, all of them test prompts: rivals are compared on them, so nothing may learn from them."""
    if split != "test":
        raise PromptError(
            "Spec-Bench is for measuring: to learn or tune on it would make its numbers worthless. Take --task chat or "
            "prompts of your own, or --split test for a dataset of its texts that `lede evaluate` measures on"
        )
    root = _root()
    places = [root / "spec_bench.jsonl", *sorted((root / SPEC_BENCH).glob("*.jsonl"))] if root is not None else []
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise PromptError(f"there is no spec_bench.jsonl, Spec-Bench's questions, in the folder that {FOLDER} names")
    prompts = load_prompts(file)
    return [replace(p, split="test", task=f"mt_bench/{p.task}" if p.task in MT_BENCH else p.task) for p in prompts]


def _texts(task: Task, split: Split, seed: int | None = None) -> Iterator[tuple[int, str, str, str]]:
    """(row, group, prompt, reference) of every row of the split's data, in their order or one drawn from `seed`."""
    rows = _load(task, split)
    order = range(len(rows)) if seed is None else sorted(range(len(rows)), key=lambda row: stable_hash(f"{seed}:{row}"))
    for number in order:
        row = rows[number]
        values = [row[column] for column in task.columns]
        if not all(isinstance(value, str) for value in values):
            raise PromptError(f"row {number} of {_described(task, split)}: {', '.join(task.columns)} must be strings")
        yield number, group_of(values[0]), *task.read(*values)


def _shots(task: Task) -> list[tuple[str, str]]:
    """The solved examples in front of every prompt, the same for every split and seed: the shortest of a few."""
    if task.shots == 0:
        return []
    drawn = islice(_texts(task, "train", seed=0), SHOT_CHOICE * task.shots)
    shots = [(text, reference) for _, _, text, reference in drawn]
    return sorted(shots, key=lambda shot: sum(map(len, shot)))[: task.shots]


def _load(task: Task, split: Split) -> Any:
    """The data set's split that holds ours, as a `datasets.Dataset` of the task's columns."""
    import datasets  # an optional extra, and slow

    source, files = task.source_split(split), _files(task, split)
    if files == []:
        raise PromptError(f"{task.name}, in {_root()}, holds neither {source}.jsonl nor {source}.parquet")
    try:
        if files:
            datasets.disable_progress_bars()
            kind = "json" if files[0].endswith(".jsonl") else "parquet"
            plain = [*map(glob.escape, files)]
            rows = datasets.load_dataset(kind, data_files=plain, split="train")  # what the library calls plain files
        else:
            rows = datasets.load_dataset(*task.dataset, split=source)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if files:
            raise PromptError(f"cannot read {', '.join(files)}: {error.__cause__ or error}") from error
        raise PromptError(
            f"cannot load {_described(task, split)}: {error}. Give a copy, {' and '.join(dict.fromkeys(task.splits))} "
            f"as .jsonl or .parquet files in a folder {task.name} inside the folder that {FOLDER} names, or prompts of "
            "your own with --prompts"
        ) from error
    if missing := [column for column in task.columns if column not in rows.column_names]:
        have = ", ".join(rows.column_names)
        raise PromptError(f"{_described(task, split)} has no column {', '.join(missing)}, only {have}")
    return rows.select_columns(list(task.columns))


def _root() -> Path | None:
    """The folder that LEDE_DATASETS names, if it is set. Raises PromptError where it is none."""
    root = os.environ.get(FOLDER)
    if root and not Path(root).is_dir():
        raise PromptError(f"{FOLDER} names {root}, which is not a folder")
    return Path(root) if root else None


def _files(task: Task, split: Split) -> list[str] | None:
    """The local copy's files of a split, of one kind; None where there is no copy."""
    root, source = _root(), task.source_split(split)
    if root is None or not (folder := root / task.name).is_dir():
        return None
    kinds = ([*folder.glob(f"{source}.{end}"), *folder.glob(f"{source}-*.{end}")] for end in ("parquet", "jsonl"))
    return sorted(str(path) for path in next(filter(None, kinds), []))


def _described(task: Task, split: Split) -> str:
    """The data of one split, for a message."""
    source = task.source_split(split)
    return f"the task {task.name} ({' '.join(task.dataset)}, split {source})"
