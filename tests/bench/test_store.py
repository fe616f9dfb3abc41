"""What a bench leaves on disk, and finds again."""

import json

import pytest

from lede.bench.errors import BenchError
from lede.bench.store import Store
from tests.bench.samples import plain, sample

QUESTION = {"task": "t", "threads": 1}


def test_samples_come_back_as_they_were(tmp_path):
    store = Store(tmp_path, QUESTION)
    written = [sample("lede", p, prompt_seconds=0.25, draft_seconds=0.5, decision_seconds=0.125, verify_seconds=0.25,
                      text="ü\n") for p in "ab"] + [plain("autoregressive")]  # fmt: skip
    for one in written:
        store.append(one, "toy")
    assert Store(tmp_path, QUESTION).samples(("lede", "autoregressive", "other"), "toy") == written
    assert store.samples(("lede",), "another model") == []


def test_each_line_is_spec_bench_s(tmp_path):
    store = Store(tmp_path, QUESTION)
    store.append(sample("lede", seconds=2.0, text="abc"), "toy")
    store.append(sample("transformers", exits=(), drafts=(), accepts=(), commits=()), "toy")
    (row,) = [json.loads(line) for line in (store.folder / "lede.jsonl").read_text().splitlines()]
    assert (row["question_id"], row["category"], row["model_id"]) == ("a", "t", "toy lede")
    choice = row["choices"][0]
    assert (choice["turns"], choice["new_tokens"], choice["wall_time"]) == (["abc"], [4], [2.0])
    assert (choice["accept_lengths"], choice["decoding_steps"]) == ([3, 1], [2])
    (row,) = [json.loads(line) for line in (store.folder / "transformers.jsonl").read_text().splitlines()]
    assert row["choices"][0]["accept_lengths"] == [1, 1, 1, 1]


def test_another_question_has_another_folder_and_fresh_empties_its_own(tmp_path):
    first, other = Store(tmp_path, QUESTION), Store(tmp_path, QUESTION | {"threads": 2})
    assert first.folder != other.folder
    for store in (first, other):
        store.append(sample("lede"), "toy")
        store.remember("costs", {"layers": 1})
    Store(tmp_path, QUESTION, fresh=True)
    assert (first.samples(("lede",), "toy"), first.tuned()) == ([], {})
    assert len(other.samples(("lede",), "toy")) == 1
    assert other.tuned() == {"costs": {"layers": 1}}
    assert json.loads((first.folder / "run.json").read_text()) == QUESTION


def test_a_torn_last_line_is_left_out_and_damage_elsewhere_is_named(tmp_path):
    store = Store(tmp_path, QUESTION)
    for prompt in "abc":
        store.append(sample("lede", prompt), "toy")
    path = store.folder / "lede.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert [s.prompt_id for s in store.samples(("lede",), "toy")] == ["a", "b"]
    store.append(sample("lede", "d"), "toy")
    assert [s.prompt_id for s in store.samples(("lede",), "toy")] == ["a", "b", "d"]
    for damage in (b"{\n", b'{"question_id": "a"}\n', b'{"model_id": "toy lede", "choices": []}\n'):
        path.write_bytes(damage + path.read_bytes())
        with pytest.raises(BenchError, match=r"lede\.jsonl .*--fresh"):
            store.samples(("lede",), "toy")
