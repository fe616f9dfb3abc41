"""What a bench leaves on disk, in Spec-Bench's layout, and finds again, also behind a run that was killed."""

import json
from pathlib import Path

import pytest

from lede.bench.errors import BenchError
from lede.bench.store import Store
from tests.bench.samples import plain, sample

QUESTION = {"task": "t", "threads": 1}


def speed(path: Path, baseline: Path, count_tokens, task: str) -> tuple[float, float, float, list[int]]:
    """What Spec-Bench's evaluation/speed.py computes from two files: a reader of its own, plain JSON lines.

    Tokens/s of the method and of the baseline, each a mean over prompts, their ratio, and all accept lengths.
    """

    def choices(file: Path) -> list[dict]:
        rows = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
        return [row["choices"][0] for row in rows if task in ("overall", row["category"])]

    method, base = choices(path), choices(baseline)
    speeds = [sum(c["new_tokens"]) / sum(c["wall_time"]) for c in method]
    base_speeds = [sum(count_tokens(t) - 1 for t in c["turns"]) / sum(c["wall_time"]) for c in base]
    a, b = sum(speeds) / len(speeds), sum(base_speeds) / len(base_speeds)
    return a, b, a / b, [n for c in method for n in c["accept_lengths"]]


def test_spec_bench_s_script_finds_the_speeds(tmp_path):
    store = Store(tmp_path, QUESTION)
    texts = {"a": "one two three", "b": "ünï\ncode x d e f"}  # 3 and 6 tokens
    for prompt, seconds, commits in (("a", 0.5, (2, 1)), ("b", 1.0, (3, 2, 1))):
        nothing = (0,) * len(commits)
        store.append(
            sample(
                "lede",
                prompt,
                range(sum(commits)),
                seconds,
                text=texts[prompt],
                commits=commits,
                exits=nothing,
                drafts=nothing,
                accepts=nothing,
            ),
            "toy",
        )
    for prompt, seconds in (("a", 1.0), ("b", 4.0)):
        store.append(
            plain("autoregressive", prompt, range(len(texts[prompt].split())), seconds=seconds, text=texts[prompt]),
            "toy",
        )

    def count(text: str) -> int:
        return len(text.split()) + 1  # a tokenizer with BOS

    files = store.folder / "lede.jsonl", store.folder / "autoregressive.jsonl"
    assert speed(*files, count, "overall") == (6.0, 2.25, 6.0 / 2.25, [2, 1, 3, 2, 1])
    row = json.loads(files[0].read_text().splitlines()[1])
    assert (row["question_id"], row["category"], row["model_id"]) == ("b", "t", "toy lede")
    assert row["choices"][0]["decoding_steps"] == [3]


def test_samples_come_back_as_they_were(tmp_path):
    store = Store(tmp_path, QUESTION)
    split = {"prompt_seconds": 0.25, "draft_seconds": 0.5, "decision_seconds": 0.125, "verify_seconds": 0.25}
    library = sample("transformers", exits=(), drafts=(), accepts=(), commits=())
    texts = ("ü\n", "half a surrogate pair \ud800")
    ours = [sample("lede", p, text=text, **split) for p, text in zip("ab", texts, strict=True)]
    written = [*ours, plain("autoregressive"), library]
    for one in written:
        store.append(one, "toy")
    assert Store(tmp_path, QUESTION).samples(("lede", "autoregressive", "transformers", "other")) == written
    (row,) = [json.loads(line) for line in (store.folder / "transformers.jsonl").read_text().splitlines()]
    assert row["choices"][0]["accept_lengths"] == [1, 1, 1, 1]


def test_another_question_has_another_folder_and_fresh_empties_its_own(tmp_path):
    first, other = Store(tmp_path, QUESTION), Store(tmp_path, QUESTION | {"threads": 2})
    assert first.folder != other.folder
    for store in (first, other):
        store.append(sample("lede"), "toy")
        store.remember("costs", {"layers": 1})
    Store(tmp_path, QUESTION, fresh=True)
    assert (first.samples(("lede",)), first.tuned()) == ([], {})
    assert len(other.samples(("lede",))) == 1
    assert other.tuned() == {"costs": {"layers": 1}}
    assert json.loads((first.folder / "run.json").read_text()) == QUESTION


@pytest.mark.parametrize("cut", [1, 20, 60, 99_000])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path, cut):
    store = Store(tmp_path, QUESTION)
    for prompt in "ab":
        store.append(sample("lede", prompt, text="y" * 200_000), "toy")
    path = store.folder / "lede.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])  # killed while writing the second
    store = Store(tmp_path, QUESTION)
    assert [s.prompt_id for s in store.samples(("lede",))] == ["a"]
    store.append(sample("lede", "c"), "toy")
    assert [s.prompt_id for s in store.samples(("lede",))] == ["a", "c"]


def test_the_first_line_torn(tmp_path):
    path = Store(tmp_path, QUESTION).folder / "lede.jsonl"
    path.write_bytes(b'{"question_id": "a"')
    store = Store(tmp_path, QUESTION)
    assert store.samples(("lede",)) == []
    store.append(sample("lede"), "toy")
    assert len(store.samples(("lede",))) == 1


@pytest.mark.parametrize("damage", [b"{\n", b'{"question_id": "a"}\n', b'{"lede": {}, "choices": []}\n', b"3\n"])
def test_damage_elsewhere_is_named(tmp_path, damage):
    store = Store(tmp_path, QUESTION)
    store.append(sample("lede"), "toy")
    path = store.folder / "lede.jsonl"
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(BenchError, match=r"lede\.jsonl, line 2 is not a bench's result .*--fresh"):
        store.samples(("lede",))
