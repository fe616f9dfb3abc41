"""Spec-Bench's layout: what its speed script computes from our lines, and files that a killed run leaves."""

import json
from pathlib import Path

import pytest

from lede.bench.spec_bench import line, read, write_line


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


def written(path: Path, *rows: tuple[str, str, str, float, list[int]], **extra: object) -> Path:
    for question, category, text, seconds, lengths in rows:
        write_line(path, line(question, category, "toy lede", text=text, new_tokens=sum(lengths), seconds=seconds,
                              accept_lengths=lengths, extra=extra))  # fmt: skip
    return path


def test_its_speed_script_finds_the_speeds(tmp_path: Path) -> None:
    ours = written(tmp_path / "lede.jsonl", ("a", "qa", "one two three", 0.5, [2, 1]),
                   ("b", "summarization", "ünï\ncode x", 1.0, [3, 2, 1]), seed=3)  # fmt: skip
    base = written(tmp_path / "ar.jsonl", ("a", "qa", "one two three", 1.0, [1] * 3),
                   ("b", "summarization", "a b c d e f", 4.0, [1] * 6))  # fmt: skip

    def count(text: str) -> int:
        return len(text.split()) + 1  # a tokenizer with BOS

    assert speed(ours, base, count, "overall") == (6.0, 2.25, 6.0 / 2.25, [2, 1, 3, 2, 1])
    assert speed(ours, base, count, "qa") == (6.0, 3.0, 2.0, [2, 1])
    assert read(ours)[1]["choices"][0]["decoding_steps"] == [3]
    assert read(ours)[0]["seed"] == 3


def test_extra_keys_must_be_new() -> None:
    with pytest.raises(ValueError, match="choices"):
        line("a", "qa", "m", text="", new_tokens=0, seconds=1, accept_lengths=[], extra={"choices": 1})


@pytest.mark.parametrize("cut", [1, 7, 60, 99_000])
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "x.jsonl", ("a", "qa", "first", 1.0, [1]), ("b", "qa", "y" * 200_000, 1.0, [1]))
    path.write_bytes(path.read_bytes()[:-cut])  # killed while writing the second
    assert [row["question_id"] for row in read(path)] == ["a"]
    written(path, ("c", "qa", "third", 1.0, [1]))
    assert [row["question_id"] for row in read(path)] == ["a", "c"]


def test_the_first_line_torn_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    assert read(path) == []
    path.write_bytes(b'{"question_id": "a"')
    assert read(path) == []
    written(path, ("b", "qa", "", 1.0, [1]))
    assert [row["question_id"] for row in read(path)] == ["b"]


def test_damage_elsewhere_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", ("a", "qa", "", 1.0, [1]))
    path.write_bytes(b"{\n" + path.read_bytes())
    with pytest.raises(ValueError, match=r"x\.jsonl, line 1: not a JSON object"):
        read(path)


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", ("a", "qa", "x\ud800", 1.0, [1]))
    assert json.loads(path.read_text(encoding="utf-8"))["choices"][0]["turns"] == ["x\ud800"]
