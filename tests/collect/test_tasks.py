"""Tasks by name: real files through the `datasets` library, splits that share nothing, one line for what is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lede.collect.errors import PromptError
from lede.collect.prompts import stdlib_prompts
from lede.collect.tasks import TASKS, load_task
from lede.replay.split import SPLITS

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of local copies, and a cache of the library's that is not the user's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LEDE_DATASETS", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies"


def put(folder: Path, task: str, split: str, rows: Sequence[dict], ending: str = "jsonl") -> Path:
    """A local copy's file."""
    path = folder / task / f"{split}.{ending}"
    path.parent.mkdir(exist_ok=True)
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def articles(*names: str) -> list[dict[str, str]]:
    """News that can be told apart: 130 words each."""
    body = " ".join(f"w{i}" for i in range(129))
    return [{"article": f"{name} {body}", "highlights": f"{name} .\nmore .", "id": name} for name in names]


def test_the_paper_s_tasks_and_settings() -> None:
    own = ["stdlib", "chat", "spec_bench"]
    assert list(TASKS) == [*own, "cnn_dm_summarization", "cnn_dm_lm", "topv2", "alpaca", "humaneval"]
    assert {name: task.temperature for name, task in TASKS.items() if task.temperature} == {"cnn_dm_lm": 0.6}
    assert {task.max_new_tokens for task in TASKS.values() if task.dataset} == {512}


def test_stdlib_is_as_before() -> None:
    assert load_task("stdlib", "validation", 5, seed=2) == stdlib_prompts("validation", 5, seed=2)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_summaries_come_after_one_example_from_train(folder: Path, ending: str) -> None:
    put(folder, "cnn_dm_summarization", "train", articles("short", "a longer one", "another long one"), ending)
    put(folder, "cnn_dm_summarization", "validation", articles("v"), ending)
    put(folder, "cnn_dm_summarization", "test", articles("x", "y"), ending)
    prompts = load_task("cnn_dm_summarization", "test")
    assert sorted(p.id for p in prompts) == [f"cnn_dm_summarization:test:{i}" for i in (0, 1)]
    first = min(prompts, key=lambda p: p.id)
    example, rest = first.text.split("\n\n")
    assert example.startswith("Article: short w0 w1 ") and example.endswith(" w128\nSummary: short . more .")
    assert rest.startswith("Article: x w0 ") and rest.endswith(" w128\nSummary:")
    assert (first.reference, first.task) == (" x . more .", "cnn_dm_summarization")
    train = load_task("cnn_dm_summarization", "train")  # without the example, whose answer stands in the prompt
    assert sorted(p.text.split("\n\n")[1].split()[1] for p in train) == ["a", "another"]
    assert all(p.text.startswith(example) for p in train)


def test_language_modelling_goes_on_from_a_hundred_words(folder: Path) -> None:
    put(folder, "cnn_dm_lm", "test", [*articles("x"), {"article": "too short", "highlights": "", "id": ""}])
    short, long = sorted(load_task("cnn_dm_lm", "test"), key=lambda p: len(p.text))
    assert long.text.split() == ["x", *(f"w{i}" for i in range(99))]
    assert long.reference == " ".join(f"w{i}" for i in range(99, 129))
    assert (short.text, short.reference) == ("too short", None)


def test_the_other_prompts(folder: Path) -> None:
    put(folder, "topv2", "test", [{"domain": "alarm", "utterance": "wake me", "semantic_parse": "[IN:WAKE me]"}])
    assert [(p.text, p.reference) for p in load_task("topv2", "test")] == [("wake me", "[IN:WAKE me]")]
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
    ]
    put(folder, "alpaca", "train", rows)
    texts = {p.reference: p.text for split in SPLITS for p in some("alpaca", split)}
    assert texts["3"] == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n"
        "### Response:\n"
    )
    assert texts["Hi"] == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nGreet.\n\n### Response:\n"
    )


def some(task: str, split: str) -> list:
    """The prompts of a split that may be empty."""
    try:
        return load_task(task, split)  # type: ignore[arg-type]
    except PromptError as error:
        assert "no prompts in its split" in str(error)
        return []


def test_one_split_is_divided_and_no_text_is_in_two(folder: Path) -> None:
    rows = [{"prompt": f"def f{i % 300}():", "canonical_solution": f"return {i}"} for i in range(400)]
    put(folder, "humaneval", "test", rows)
    texts = {split: [p.text for p in load_task("humaneval", split)] for split in SPLITS}
    assert sorted(text for found in texts.values() for text in found) == sorted({row["prompt"] for row in rows})
    shares = [len(texts[split]) / 300 for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.06)
    assert sorted(p.text for p in load_task("humaneval", "all")) == sorted({row["prompt"] for row in rows})


def test_what_is_held_out_is_not_in_train(folder: Path) -> None:
    def rows(*names: str) -> list[dict]:
        return [{"utterance": name, "semantic_parse": "x"} for name in names]

    put(folder, "topv2", "train", rows("a", "b", "a", "c", "d", " "))
    put(folder, "topv2", "eval", rows("b", "e", "c"))
    put(folder, "topv2", "test", rows("c", "f"))
    found = {split: sorted(p.text for p in load_task("topv2", split)) for split in SPLITS}
    assert found == {"train": ["a", "d"], "validation": ["b", "e"], "test": ["c", "f"]}
    everything = {(p.text, p.split) for p in load_task("topv2", "all")}
    assert everything == {(text, split) for split, texts in found.items() for text in texts}


def test_an_article_is_one_group_and_no_train_prompt_has_a_held_out_one(folder: Path) -> None:
    for split, names in (("train", "abcx"), ("validation", "vx"), ("test", "ty")):
        for task in ("cnn_dm_lm", "cnn_dm_summarization"):
            put(folder, task, split, articles(*names))
    group = {split: {p.group for p in load_task("cnn_dm_lm", split)} for split in SPLITS}
    assert [len(group[split]) for split in SPLITS] == [3, 2, 2]
    assert load_task("cnn_dm_lm", "test")[0].split == "test"
    for split in SPLITS:  # the same articles, asked for another thing; one of train's is the example
        assert {p.group for p in load_task("cnn_dm_summarization", split)} <= group[split]


def test_one_instruction_with_several_inputs_is_one_group(folder: Path) -> None:
    rows = [{"instruction": f"do {i % 20}", "input": str(i), "output": "x"} for i in range(200)]
    put(folder, "alpaca", "train", rows)
    prompts = load_task("alpaca", "all")
    assert len(prompts) == 200
    assert len({p.group for p in prompts}) == len({(p.group, p.split) for p in prompts}) == 20


def test_all_sides_are_drawn_from_even_where_one_is_far_larger(folder: Path) -> None:
    for split, count in (("train", 300), ("eval", 30), ("test", 30)):
        put(folder, "topv2", split, [{"utterance": f"{split} {i}", "semantic_parse": ""} for i in range(count)])
    prompts = load_task("topv2", "all", 100)
    assert [sum(p.split == split for p in prompts) for split in SPLITS] == [60, 20, 20]
    assert {p.split for p in prompts[:20]} == set(SPLITS)


def test_the_order_is_drawn_from_the_seed_and_a_limit_takes_the_first(folder: Path) -> None:
    put(folder, "topv2", "test", [{"utterance": f"u{i}", "semantic_parse": ""} for i in range(60)])
    all_of = [load_task("topv2", "test", seed=seed) for seed in (0, 0, 1)]
    assert all_of[0] == all_of[1] != all_of[2]
    assert sorted(p.id for p in all_of[0]) == sorted(p.id for p in all_of[2])
    assert load_task("topv2", "test", 7) == all_of[0][:7]
    assert [p.id for p in all_of[0]] != [f"topv2:test:{i}" for i in range(60)]


def test_a_copy_may_be_in_parts(folder: Path) -> None:
    rows = [{"utterance": f"u{i}", "semantic_parse": ""} for i in range(4)]
    put(folder, "topv2", "test-00000-of-00002", rows[:3], "parquet")
    put(folder, "topv2", "test-00001-of-00002", rows[3:], "parquet")
    assert {p.id: p.text for p in load_task("topv2", "test")} == {f"topv2:test:{i}": f"u{i}" for i in range(4)}


@pytest.mark.parametrize(
    ("task", "split", "content", "complaint"),
    [
        ("poetry", "test", None, "no task 'poetry': choose one of stdlib, chat, spec_bench, cnn_dm_summarization"),
        ("topv2", "train", '{"utterance": "a", "semantic_parse": "a"}', "holds neither train.jsonl nor train.parquet"),
        ("topv2", "test", '{"text": "a"}', "has no column utterance, semantic_parse, only text"),
        ("topv2", "test", '{"utterance": 3, "semantic_parse": "a"}', "row 0 of .*utterance, semantic_parse must be"),
        ("topv2", "test", '{"utterance": null, "semantic_parse": "a"}', "must be strings"),
        ("topv2", "test", '{"utterance": " ", "semantic_parse": "a"}', "no prompts in its split test"),
        ("topv2", "test", "{]", r"cannot read .*test\.jsonl: .*JSON"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, task: str, split: str, content: str | None, complaint: str) -> None:
    if content is not None:
        (folder / task).mkdir()
        (folder / task / "test.jsonl").write_text(content + "\n")
    with pytest.raises(PromptError, match=complaint):
        load_task(task, split)  # type: ignore[arg-type]


def test_a_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEDE_DATASETS", str(tmp_path / "nowhere"))
    with pytest.raises(PromptError, match=r"LEDE_DATASETS names .*nowhere, which is not a folder"):
        load_task("topv2", "test")


def collected(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lede", "collect", *arguments],
        env={k: v for k, v in os.environ.items() if k != "LEDE_DATASETS"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_offline_with_nothing_in_the_cache(tmp_path: Path) -> None:
    done = collected(
        "--task", "cnn_dm_lm", "--out", str(tmp_path / "d"), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), COLUMNS="80"
    )
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1
    for said in ("the task cnn_dm_lm (abisee/cnn_dailymail 3.0.0", "train and validation and test", "LEDE_DATASETS"):
        assert said in done.stderr


def test_without_the_library(tmp_path: Path) -> None:
    (tmp_path / "datasets.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'datasets'\", name='datasets')\n"
    )
    done = collected("--task", "topv2", "--out", str(tmp_path / "d"), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == ("lede: this needs the package datasets: install it with pip install 'lede[bench]'\n")


def test_the_requests_in_the_package_are_chats_of_all_sides() -> None:
    everything = load_task("chat", "all")
    sides = {split: load_task("chat", split) for split in SPLITS}
    assert sum(map(len, sides.values())) == len(everything) > 200
    assert all(p.messages and p.split == split for split, prompts in sides.items() for p in prompts)
    groups = [{p.group for p in prompts} for prompts in sides.values()]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert len({p.task for p in load_task("chat", "train", 8, seed=1)}) == 8  # evenly over its categories


def test_spec_bench_is_spread_over_its_categories_and_only_measured_on(folder: Path) -> None:
    kinds = ["writing", "math", "coding", "qa", "rag"]
    rows = [{"question_id": i, "category": kinds[i % 5], "turns": [f"Question {i}", "And?"]} for i in range(50)]
    file = folder / "spec_bench.jsonl"
    with pytest.raises(PromptError, match=r"there is no spec_bench\.jsonl"):
        load_task("spec_bench", "test")
    for place in (file, folder / "spec_bench" / "question.jsonl"):
        place.parent.mkdir(exist_ok=True)
        place.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        chosen = load_task("spec_bench", "test", 9)
        kinds_of_it = ["mt_bench/coding", "mt_bench/math", "mt_bench/writing"]
        assert sorted(p.task for p in chosen) == [*kinds_of_it, "qa", "qa", "qa", "rag", "rag", "rag"]
        assert {p.split for p in load_task("spec_bench", "test")} == {"test"}
        place.unlink()
    for split in ("train", "all"):
        with pytest.raises(PromptError, match="Spec-Bench is for measuring"):
            load_task("spec_bench", split)
