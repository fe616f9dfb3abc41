"""Exit heads and draft vocabularies in a dataset: what it says of them, and that nothing else gets into it."""

from dataclasses import replace

import pytest
import torch

from lede import replay
from lede.collect.collector import default_layers
from lede.collect.vocabulary import frequent_tokens
from lede.decode.load import from_transformers
from lede.replay.errors import DatasetError
from tests.collect.small import CONFIG, collected, tables, tiny_model
from tests.decode.test_exits import exit_heads
from tests.models import byte_llama, byte_tokenizer

VOCABULARY = list(range(0, 250, 2))


def model_with(vocabulary=None):
    """The tiny model with exit heads at layers 1 and 2, which bring VOCABULARY."""
    exits = replace(exit_heads(tiny_model(), (1, 2), VOCABULARY), fingerprint="feed")
    return from_transformers(
        byte_llama(), torch.float32, "cpu", byte_tokenizer(), "tiny", exits=exits, draft_vocabulary=vocabulary
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("heads") / "data"
    collected(out, replace(CONFIG, layers=None), model_with())
    return out


def test_a_dataset_says_what_drafted(dataset):
    opened = replay.open_dataset(dataset)
    assert opened.layers == (0, 1, 2) == default_layers(4, heads=(1, 2))
    told = opened.header["model"]
    assert told["exits"] == "feed" and told["draft_vocabulary"]["size"] == len(VOCABULARY)
    assert opened.draft_vocabulary == tuple(VOCABULARY)
    assert opened.header["model"].keys() > {"exits"} and replay.verify(dataset) == []


def test_sweeps_are_what_drafting_saw(dataset):
    rows = tables(dataset)
    seen = rows["transitions"].filter((rows["transitions"]["phase"] == 0) & (rows["transitions"]["layer"] > 0))
    names = ["conf_topk", "entropy", "margin", "top1_logp", "draft_token", "target_token"]
    both = seen.join(rows["sweeps"], on=["run", "episode", "position", "layer"], suffix="_swept")
    assert len(both) == len(seen) > 50
    for name in names:
        assert (both[name] - both[f"{name}_swept"]).abs().max() < 1e-4, name
    assert set(seen["draft_token"]) <= {*VOCABULARY}


def test_another_set_of_heads_or_vocabulary_is_refused(dataset, tmp_path):
    for other in (tiny_model(), model_with(()), model_with(range(9))):
        with pytest.raises(DatasetError, match=r"model\.(exits|draft_vocabulary).*Choose another --out or the same"):
            collected(dataset, replace(CONFIG, layers=(0, 1, 2)), other)
    collected(tmp_path / "plain", CONFIG)
    assert replay.open_dataset(tmp_path / "plain").draft_vocabulary is None
    with pytest.raises(DatasetError, match=r"model\.exits is null there"):
        collected(tmp_path / "plain", CONFIG, model_with(()))


def test_the_most_frequent_tokens_of_training_texts(dataset):
    opened = replay.open_dataset(dataset)
    written = opened.episodes.collect()
    train = replay.split.episode_splits(opened)
    numbers = {n & 0xFFFFFFFF for n in train.numbers[train.split == "train"].tolist()}
    texts = [r["output_tokens"] for r in written.iter_rows(named=True) if r["episode"] in numbers]
    tokens = [token for text in texts for token in text]
    chosen, share = frequent_tokens(opened, 5)
    best = sorted(sorted(range(257), key=lambda token: -tokens.count(token))[:5])
    assert chosen == best
    assert share == pytest.approx(sum(token in chosen for token in tokens) / len(tokens))
    assert frequent_tokens(opened, 1000) == (list(range(257)), 1.0)
