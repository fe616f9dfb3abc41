"""What a bench leaves on disk, and finds again, also behind a run that was killed."""

import json

import pytest

from lede.bench.errors import BenchError
from lede.bench.store import Store
from tests.bench.samples import plain, sample

QUESTION = {"task": "t", "threads": 1}


def test_samples_come_back_as_they_were(tmp_path):
    store = Store(tmp_path, QUESTION)
    split = {"prompt_seconds": 0.25, "draft_seconds": 0.5, "decision_seconds": 0.125, "verify_seconds": 0.25}
    library = sample("transformers", exits=(), drafts=(), accepts=(), commits=())
    texts = ("ü\n", "half a surrogate pair \ud800")
    ours = [sample("lede", p, text=text, **split) for p, text in zip("ab", texts, strict=True)]
    written = [*ours, plain("autoregressive"), library]
    for one in written:
        store.append(one)
    assert Store(tmp_path, QUESTION).samples(("lede", "autoregressive", "transformers", "other")) == written


def test_another_question_has_another_folder_and_fresh_empties_its_own(tmp_path):
    first, other = Store(tmp_path, QUESTION), Store(tmp_path, QUESTION | {"threads": 2})
    assert first.folder != other.folder
    for store in (first, other):
        store.append(sample("lede"))
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
        store.append(sample("lede", prompt, text="y" * 200_000))
    path = store.folder / "lede.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])  # killed while writing the second
    store = Store(tmp_path, QUESTION)
    assert [s.prompt_id for s in store.samples(("lede",))] == ["a"]
    store.append(sample("lede", "c"))
    assert [s.prompt_id for s in store.samples(("lede",))] == ["a", "c"]


def test_the_first_line_torn(tmp_path):
    path = Store(tmp_path, QUESTION).folder / "lede.jsonl"
    path.write_bytes(b'{"question_id": "a"')
    store = Store(tmp_path, QUESTION)
    assert store.samples(("lede",)) == []
    store.append(sample("lede"))
    assert len(store.samples(("lede",))) == 1


@pytest.mark.parametrize("damage", [b"{\n", b'{"question_id": "a"}\n', b"{}\n", b"3\n"])
def test_damage_elsewhere_is_named(tmp_path, damage):
    store = Store(tmp_path, QUESTION)
    store.append(sample("lede"))
    path = store.folder / "lede.jsonl"
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(BenchError, match=r"lede\.jsonl, line 2 is not a bench's result .*--fresh"):
        store.samples(("lede",))
