"""The library's own decoding, plain and with early-exit drafts."""

import json
import shutil

import pytest

from lede.bench.library import Library, drafting
from lede.decode.generate import generate
from lede.decode.load import load_model
from lede.decode.rules import Autoregressive
from lede.decode.sampling import Settings

SETTINGS = Settings(12)


@pytest.fixture(scope="module")
def library(checkpoint) -> Library:
    return Library(load_model(checkpoint, "float32", "cpu"), str(checkpoint), SETTINGS)


def test_its_early_exit_writes_its_own_text_and_ours(library):
    ids = [100, 101, 102, 32, 109]
    text = library.write(ids, seed=0)
    assert text == generate(library.model, ids, Autoregressive(), SETTINGS).token_ids
    assert library.write(ids, seed=0, exit_layer=1, drafts=3) == text
    assert library.write(ids, seed=0, most=4) == text[:4]


def test_it_drafts_as_many_tokens_from_as_many_layers_as_asked(library, monkeypatch):
    depths, rows = [], []
    layers = library.theirs.model.layers
    hooks = [layers[i].register_forward_hook(lambda m, a, o, i=i: depths.append(i)) for i in (0, 3)]
    hooks.append(layers[3].register_forward_hook(lambda m, a, o: rows.append(a[0].shape[1])))
    try:
        library.write([100, 101, 102], seed=0, exit_layer=1, drafts=3)
    finally:
        for hook in hooks:
            hook.remove()
    assert depths.count(0) > depths.count(3)  # drafts run the first layer alone
    assert max(rows[1:]) in (3, 4)  # a verification: the drafts, and the token before them


def test_an_interrupt_leaves_the_library_s_model_whole(library):
    layers = library.theirs.config.num_hidden_layers
    with pytest.raises(KeyboardInterrupt), drafting(library.theirs, 3):
        library.theirs.config.num_hidden_layers = 1  # as the library does while it drafts
        raise KeyboardInterrupt
    assert library.theirs.config.num_hidden_layers == layers
    assert library.theirs.generation_config.num_assistant_tokens is None


def test_tuning_returns_one_of_what_it_tried(library):
    seen = []
    tuned = library.tune([[100, 101], [102, 103]], lambda done, total: seen.append((done, total)))
    assert tuned["parameters"]["exit_layer"] in (1, 2)
    assert tuned["parameters"]["drafts"] in (2, 4, 8)
    assert tuned["measured"] > 0
    assert seen[-1] == (12, 12)
    assert tuned["scored"] == 6


def test_sampling_follows_the_seed(library, checkpoint):
    sampling = Library(library.model, str(checkpoint), Settings(12, temperature=1.0))
    texts = [sampling.write([100, 101, 102], seed=seed) for seed in (1, 1, 2, 3)]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def test_it_leaves_the_checkpoint_s_logits_processors_out_as_the_methods_beside_it_do(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.7, "eos_token_id": 256}))
    library = Library(load_model(folder, "float32", "cpu"), str(folder), SETTINGS)
    ids = [100, 101, 102, 32, 109]
    assert library.write(ids, seed=0) == generate(library.model, ids, Autoregressive(), SETTINGS).token_ids
