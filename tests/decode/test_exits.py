"""Exit heads and draft vocabularies change what is drafted, never what is written."""

import json

import pytest
import torch

from lede.decode.config import layer_shapes
from lede.decode.errors import ModelError
from lede.decode.exits import Exits, load_exits, save_exits
from lede.decode.generate import generate
from lede.decode.load import from_transformers
from lede.decode.model import Model
from lede.decode.rules import Autoregressive, Del, LayerSkip
from lede.decode.sampling import Settings
from tests.decode.rounds import timeless
from tests.decode.test_sampling import DOUBTFUL, LIBRARY, PROMPT, exact, observed, p_value
from tests.models import llama, ours, reference, variant
from tests.rules import RandomRule

NAMES = ["grouped", "one-key-head, tied", "odd"]
PROMPTS = [(3,), (5, 9, 2, 30, 7, 1), (11, 12, 13) * 4]
TOKENS = 30


def exit_heads(model: Model, layers=(1, 3), vocabulary=range(0, 40, 2), seed=0) -> Exits:
    """Random heads that still let through what their layer says."""
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in layers:
        for name, shape in [*layer_shapes(model.config).items(), ("norm", (model.config.hidden_size,))]:
            drawn = torch.randn(shape, generator=random)
            weights[f"exits.{layer}.{name}.weight"] = 1 + 0.1 * drawn if len(shape) == 1 else drawn / shape[1] ** 0.5
    if vocabulary is not None:
        weights["draft_vocabulary"] = torch.tensor(vocabulary, dtype=torch.int32)
    card = {"format": 1, "model": model.name, "weights_hash": model.weights_hash, "layers": list(layers)}
    return Exits(card, weights, "")


def with_heads(name: str, dtype=torch.float32, native=True, **heads) -> Model:
    return from_transformers(variant(name), dtype, native=native, exits=exit_heads(ours(name), **heads))


def rules(model: Model):
    every = tuple(range(model.layer_count))
    looking = RandomRule((*every, model.layer_count), seed=3, exit_chance=0.4)
    looking.needs_state = looking.needs_lookup = True
    return [LayerSkip(1, 5), RandomRule(every, seed=1), looking, Del(every[1:], model.layer_count)]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_heads_of_any_kind_leave_the_text_as_it_is(name, native):
    count = ours(name).layer_count
    for heads in (
        {},
        {"vocabulary": None},
        {"layers": (count - 1,), "vocabulary": (2, 7, 8, 9, 33)},
        {"layers": range(1, count)},
    ):
        model = with_heads(name, native=native, **{"layers": (1,), **heads})
        for prompt in PROMPTS:
            for rule in rules(model):
                done = generate(model, prompt, rule, Settings(TOKENS, stop_tokens=frozenset()))
                assert done.token_ids == reference(name, prompt, TOKENS)


def test_in_bf16_speculation_with_heads_is_plain_decoding_bit_for_bit():
    model = with_heads("grouped", torch.bfloat16)
    for prompt in PROMPTS:
        plain = generate(model, prompt, Autoregressive(), Settings(TOKENS, stop_tokens=frozenset()))
        for rule in rules(model):
            assert generate(model, prompt, rule, Settings(TOKENS, stop_tokens=frozenset())).token_ids == plain.token_ids


def test_only_the_draft_vocabulary_is_drafted_and_states_are_over_it():
    model = with_heads("grouped")
    for rule in rules(model)[:3]:
        rule.layers = tuple(layer for layer in rule.layers if layer)  # a lookup copies what it finds
        done = generate(model, PROMPTS[1], rule, Settings(TOKENS, stop_tokens=frozenset()))
        assert {token for round_ in done.rounds for token in round_.drafts} <= {*range(0, 40, 2)}
        assert all(d.state.token in range(0, 40, 2) for r in done.rounds for d in r.decisions if d.state.layer)
        assert done.sums.drafted


def test_a_draft_vocabulary_needs_no_heads():
    model = from_transformers(variant("grouped"), torch.float32, draft_vocabulary=[1, 5, 9, 20, 30])
    done = generate(model, PROMPTS[0], LayerSkip(2, 3), Settings(TOKENS, stop_tokens=frozenset()))
    assert done.token_ids == reference("grouped", PROMPTS[0], TOKENS)
    assert {token for round_ in done.rounds for token in round_.drafts} <= {1, 5, 9, 20, 30}
    for ids in ([1, 2, 3, 4], [1, 2, 3, 4, 61], [1, 3, 2, 5, 6]):
        with pytest.raises(ModelError, match="ascending token ids under 61"):
            from_transformers(variant("grouped"), torch.float32, draft_vocabulary=ids)


@torch.inference_mode()
def spoken(model: Model, layer: int, tokens: list[int], blocks: list[int]) -> torch.Tensor:
    """What `layer` says at every position of a text that is run through the model in blocks of these lengths."""
    cache, position, out = model.cache(len(tokens)), 0, []
    for rows in blocks:
        x = model.run(0, layer, model.embed(tokens[position : position + rows]), position, cache)
        out.append(model.speak(layer, x, position, cache))
        model.run(layer, model.layer_count, x, position, cache)
        position += rows
    return torch.cat(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_says_the_same_bits_however_the_text_came_about(dtype):
    model = with_heads("grouped", dtype)
    tokens = [token % 61 for token in range(3, 120, 5)]
    one_by_one = spoken(model, 3, tokens, [1] * len(tokens))
    assert torch.equal(spoken(model, 3, tokens, [len(tokens)]), one_by_one)
    assert torch.equal(spoken(model, 3, tokens, [7, 1, len(tokens) - 8]), one_by_one)
    with torch.inference_mode():  # a prompt that was read, and drafts that were written over
        cache = model.cache(len(tokens))
        model.read(model.embed(tokens[:9]), 0, cache)
        for wrong in ([1, 2, 3, 4], tokens[9:12]):
            x = model.run(0, 3, model.embed(wrong), 9, cache)
            said = model.speak(3, x, 9, cache)
    assert torch.equal(said, one_by_one[9:12])


def test_the_backends_agree_on_what_heads_say():
    tokens = list(range(5, 45, 2))
    native, eager = (with_heads("grouped", native=native) for native in (True, False))
    for layer in (1, 2, 3):
        one, other = (spoken(model, layer, tokens, [len(tokens)]) for model in (native, eager))
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_sampling_with_a_draft_vocabulary_keeps_the_distribution(monkeypatch):
    plain = from_transformers(LIBRARY, torch.float32)
    model = from_transformers(LIBRARY, torch.float32, exits=exit_heads(plain, (1, 2), (0, 2, 3, 5, 6)))
    monkeypatch.setattr("tests.decode.test_sampling.MODEL", model)
    settings = Settings(temperature=1.0, top_k=5)
    assert generate(model, PROMPT, LayerSkip(2, 2), Settings(3, 1.0, seed=0, stop_tokens=frozenset())).sums.drafted
    assert p_value(observed(LayerSkip(2, 2), settings, 1500), exact(settings)) > DOUBTFUL


def test_saved_heads_come_back_and_speak_alike(tmp_path):
    made = exit_heads(ours("grouped"))
    saved = save_exits(tmp_path, made.card, made.weights)
    loaded = load_exits(tmp_path)
    assert loaded.fingerprint == saved.fingerprint != ""
    assert loaded.layers == (1, 3) and loaded.vocabulary.tolist() == list(range(0, 40, 2))
    model = from_transformers(variant("grouped"), torch.float32, exits=loaded)
    settings = Settings(TOKENS, stop_tokens=frozenset())
    one, other = (generate(m, PROMPTS[1], LayerSkip(1, 4), settings) for m in (model, with_heads("grouped")))
    assert timeless(one.rounds) == timeless(other.rounds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exits.json", "exits.safetensors"]


def test_heads_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no exit heads in"):
        load_exits(tmp_path)
    made = exit_heads(ours("grouped"))
    save_exits(tmp_path, made.card, made.weights)
    with pytest.raises(ModelError, match=r"are for llama with weights .*--exits none"):
        from_transformers(llama(seed=5), torch.float32, exits=load_exits(tmp_path))
    for broken in ({"layers": [1, 4]}, {"layers": [1]}, {"layers": [3, 1]}, {"layers": [1, 3, 3]}):
        with pytest.raises(ModelError, match="do not fit llama"):
            from_transformers(variant("grouped"), torch.float32, exits=Exits(made.card | broken, made.weights, ""))
    card = (tmp_path / "exits.json").read_bytes()
    save_exits(tmp_path, made.card, exit_heads(ours("grouped"), seed=1).weights)
    (tmp_path / "exits.json").write_bytes(card)  # as after a kill between the two
    with pytest.raises(ModelError, match="other weights"):
        load_exits(tmp_path)
    (tmp_path / "exits.safetensors").write_bytes((tmp_path / "exits.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read"):
        load_exits(tmp_path)
    card = json.loads((tmp_path / "exits.json").read_text())
    (tmp_path / "exits.json").write_text(json.dumps(card | {"format": 9}))
    with pytest.raises(ModelError, match="format 9"):
        load_exits(tmp_path)
    del card["fingerprint"]
    (tmp_path / "exits.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="no exit heads in"):
        load_exits(tmp_path)
