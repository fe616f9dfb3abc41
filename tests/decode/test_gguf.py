"""GGUF files: converted once and whole, exact, and refused by name before anything slow is imported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from lede.decode import gguf as ours
from lede.decode.checkpoint import check_request
from lede.decode.errors import ModelError
from lede.decode.generate import generate
from lede.decode.gguf_llama import rotary
from lede.decode.load import load_model
from lede.decode.sampling import Settings
from tests.models import LLAMA3, bpe_tokenizer, byte_llama, library_text

gguf = pytest.importorskip("gguf")


def random_llama(seed: int, **changes):
    """A Llama for `bpe_tokenizer` whose weights bf16 holds."""
    model = byte_llama(seed, **{"vocab_size": len(bpe_tokenizer()), "eos_token_id": 1} | changes)
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())  # not `to`, which would round the rotary table too
    return model


def written(path: Path, model, architecture: str = "llama", keys=(), tensors=lambda stored: None, **options) -> Path:
    """A GGUF file of a random Llama with `bpe_tokenizer`, as llama.cpp's converter writes one.

    `keys` are more of them, {name: value}; `tensors` may change {name: array} before they are stored.
    """
    config, tokenizer = model.config, bpe_tokenizer()
    out = gguf.GGUFWriter(path, architecture, **options)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_key_length(config.head_dim)
    out.add_rope_dimension_count(config.head_dim)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_vocab_size(config.vocab_size)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    out.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokenizer) - 2))
    out.add_token_merges(
        [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    )
    out.add_bos_token_id(0)
    out.add_eos_token_id(1)
    out.add_chat_template("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[answer]")
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    for name, value in dict(keys).items():
        for data in out.kv_data:
            data.pop(name, None)
        getattr(out, f"add_{kinds[type(value)]}")(name, value)
    names, stored = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers), {}
    for name, weight in model.state_dict().items():
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}.get(name[-13:-12], 0)
        if heads and name.endswith("_proj.weight"):  # this format pairs the two halves of a head's rows
            weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        stored[f"{names.get_name(name.removesuffix('.weight'))}.weight"] = weight.float().contiguous().numpy()
    tensors(stored)
    for name, weight in stored.items():
        out.add_tensor(name, weight)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lede"


def test_a_file_is_converted_once_and_writes_the_models_own_text(tmp_path, cache, monkeypatch):
    model = random_llama(3)
    file = written(tmp_path / "Small-Llama.BF16.gguf", model)
    assert check_request(file, "auto", "auto") == file
    loaded = load_model(file, "float32")
    assert (loaded.name, loaded.context) == ("Small-Llama", model.config.max_position_embeddings)
    (folder,) = cache.glob("gguf-*/*")
    assert [*folder.parent.iterdir()] == [folder]
    for text in ("def f(", "Once the stopper"):
        ids = tuple(loaded.tokenizer(text)["input_ids"])
        assert ids == tuple(bpe_tokenizer()(text, add_special_tokens=False)["input_ids"])
        written_text = generate(loaded, ids, settings=Settings(24)).token_ids
        assert written_text == library_text(model, ids, max_new_tokens=24)[: len(written_text)]
    assert loaded.tokenizer.chat_template.endswith("[answer]")
    monkeypatch.setattr(ours, "find_spec", lambda name: None)  # the package is not needed again
    assert check_request(file, "auto", "auto") == folder
    assert load_model(file, "float32").weights_hash == loaded.weights_hash


def test_another_file_of_the_same_name_is_converted_anew_and_a_failed_conversion_leaves_nothing(tmp_path, cache):
    file = written(tmp_path / "small.gguf", random_llama(3))
    first = load_model(file, "float32")
    file.unlink()
    assert load_model(written(file, random_llama(4)), "float32").weights_hash != first.weights_hash
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"small\.gguf is cut off: it has [\d,]+ bytes, and"):
        load_model(file, "float32")
    assert len([*cache.glob("gguf-*/*")]) == 2


def test_what_cannot_be_read_is_named(tmp_path, cache, monkeypatch):
    qwen, other = written(tmp_path / "qwen.gguf", random_llama(3), "qwen2"), tmp_path / "text.gguf"
    other.write_text(json.dumps({}))
    for file, complaint in (
        (qwen, r"qwen.gguf is a 'qwen2' model: only Llama"),
        (other, "text.gguf is not a GGUF file"),
        ("none.gguf", "there is no model folder none.gguf"),
    ):
        with pytest.raises(ModelError, match=complaint):
            check_request(file, "auto", "auto")
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs gguf: install with pip install 'lede\[gguf\]'"):
        check_request(written(tmp_path / "llama.gguf", random_llama(3)), "auto", "auto")


def refused(match: str, file: Path) -> None:
    """Nothing of the file is loaded or kept, and one line says why."""
    for call in (lambda: check_request(file, "auto", "auto"), lambda: load_model(file, "float32")):
        with pytest.raises(ModelError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def frequencies(model) -> np.ndarray:
    """`rope_freqs.weight`: what a model divides the plain frequencies by."""
    size, theta = model.config.head_dim, model.config.rope_parameters["rope_theta"]
    plain = theta ** -(np.arange(0, size, 2) / size)
    return (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)


def far(rope: dict) -> tuple:
    """A Llama of so long a context that its rotary embedding matters, and a prompt."""
    model = random_llama(3, max_position_embeddings=512, rope_parameters=rope, eos_token_id=None)
    return model, tuple(i * i % 97 + 2 for i in range(200))


YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 64}
SCALED = {
    "linear": ({"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}, {"scaling.type": "linear"}, 4.0),
    "a factor alone is linear": ({"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}, {}, 4.0),
    "yarn": (YARN, {"scaling.type": "yarn", "scaling.original_context_length": 64}, 4.0),
    "yarn, other betas": (
        YARN | {"beta_fast": 16.0, "beta_slow": 2.0},
        {"scaling.type": "yarn", "scaling.original_context_length": 64}
        | {"scaling.yarn_beta_fast": 16.0, "scaling.yarn_beta_slow": 2.0},
        4.0,
    ),
    "none": ({"rope_type": "default", "rope_theta": 500.0}, {"scaling.type": "none"}, 4.0),
}


@pytest.mark.parametrize("case", SCALED)
def test_scaled_rotary_embeddings_are_applied(case, tmp_path, cache):
    rope, keys, factor = SCALED[case]
    model, prompt = far(rope)
    keys = {f"llama.rope.{name}": value for name, value in (keys | {"scaling.factor": factor}).items()}
    loaded = load_model(written(tmp_path / "m.gguf", model, keys=keys), "float32")
    text = generate(loaded, prompt, settings=Settings(60, stop_tokens=frozenset())).token_ids
    assert text == library_text(model, prompt, max_new_tokens=60)
    if factor != 1 and rope["rope_type"] != "default":
        plain, _ = far({"rope_type": "default", "rope_theta": 500.0})
        assert text != library_text(plain, prompt, max_new_tokens=60)  # it does matter here


@pytest.mark.parametrize("known", [True, False])
def test_the_frequencies_of_llama_3_are_applied(known, tmp_path, cache):
    model, prompt = far(LLAMA3)
    keys = {"llama.rope.scaling.original_context_length": 32} if known else {}
    add = lambda stored: stored.update({"rope_freqs.weight": frequencies(model)})  # noqa: E731
    loaded = load_model(written(tmp_path / "m.gguf", model, keys=keys, tensors=add), "float32")
    assert loaded.config.rotary["rope_type"] == ("llama3" if known else "longrope")
    text = generate(loaded, prompt, settings=Settings(60, stop_tokens=frozenset())).token_ids
    assert text == library_text(model, prompt, max_new_tokens=60)
    (folder,) = cache.glob("gguf-*/*")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")  # and `transformers` reads the folder alike
    assert text == library_text(theirs, prompt, max_new_tokens=60, eos_token_id=None)


def test_the_parameters_of_llama_3_1_and_3_2_are_found_in_their_frequencies():
    for factor, size in ((8.0, 128), (32.0, 64)):
        rope = LLAMA3 | {"rope_theta": 5e5, "factor": factor, "original_max_position_embeddings": 8192}
        model = byte_llama(head_dim=size, max_position_embeddings=131072, rope_parameters=rope)
        given = {"rope.freq_base": 5e5, "context_length": 131072}
        assert rotary("m", given, frequencies(model).tolist(), size) == rope


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"llama.expert_count": 8}, "llama.expert_count = 8, which lede does not know how to honour"),
        ({"llama.logit_scale": 0.5}, "llama.logit_scale = 0.5"),
        ({"llama.rope.scaling.alpha": 2.0}, "llama.rope.scaling.alpha = 2.0"),
        ({"llama.rope.scaling.attn_factor": 0.5}, "llama.rope.scaling.attn_factor = 0.5"),
        ({"llama.rope.scaling.type": "longrope"}, "rotary embeddings of the kind 'longrope'"),
        ({"llama.rope.dimension_count": 16}, "llama.rope.dimension_count 16 with heads of 32"),
        ({"llama.attention.value_length": 16}, "llama.attention.value_length 16 with heads of 32"),
        ({"llama.attention.head_count_kv": [2, 1, 2, 1]}, "another llama.attention.head_count_kv in each layer"),
        ({"llama.block_count": 5}, "no tensor blk.4.attn_norm.weight"),
        ({"llama.block_count": 3}, "a tensor blk.3"),
        ({"llama.feed_forward_length": 95}, r"blk.0.ffn_gate.weight of the shape \(96, 64\)"),
        ({"general.type": "adapter"}, "general.type = 'adapter'"),
        ({"general.quantization_version": 1}, "general.quantization_version = 1"),
        ({"tokenizer.ggml.normalizer": "nfkc"}, "tokenizer.ggml.normalizer = 'nfkc'"),
        ({"tokenizer.ggml.remove_extra_whitespaces": True}, "tokenizer.ggml.remove_extra_whitespaces = True"),
        ({"tokenizer.ggml.eos_token_id": 999}, "eos_token_id 999, and"),
        ({"split.count": 2}, "m.gguf says that it is part 1 of 2: give the parts the names"),
    ],
)
def test_keys_that_are_not_honoured_are_named(keys, match, tmp_path, cache):
    refused(match, written(tmp_path / "m.gguf", random_llama(3), keys=keys))
    assert not [*cache.glob("gguf-*")]


def test_keys_that_change_nothing_are_taken(tmp_path, cache):
    keys = {"llama.expert_count": 0, "llama.attention.causal": True, "general.type": "model", "llm.notes": "x"}
    keys |= {"tokenizer.ggml.fim_pre_token_id": 5, "llama.rope.scaling.finetuned": True}
    assert load_model(written(tmp_path / "m.gguf", random_llama(3), keys=keys), "float32").layer_count == 4


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda stored: stored.pop("blk.2.ffn_up.weight"), "no tensor blk.2.ffn_up.weight"),
        (lambda s: s.update({"blk.1.attn_q.bias": np.ones(128, np.float32)}), "a tensor blk.1.attn_q.bias"),
        (
            lambda s: s.update({"blk.0.ffn_up_exps.weight": np.ones((2, 96, 64), np.float32)}),
            "a tensor blk.0.ffn_up_exps.weight",
        ),
        (lambda s: s.update({"output.weight": s["output.weight"][:9]}), r"output.weight of the shape \(9, 64\)"),
        (lambda s: s.update({"rope_freqs.weight": np.full(4, 2, np.float32)}), "4 numbers in rope_freqs.weight"),
        (lambda s: s.update({"blk.0.ffn_up.weight": s["blk.0.ffn_up.weight"].astype(np.int8)}), "of the type I8"),
    ],
)
def test_tensors_that_are_not_a_llamas_are_named(change, match, tmp_path, cache):
    file = written(tmp_path / "m.gguf", random_llama(3), tensors=change)
    with pytest.raises(ModelError, match=match):
        load_model(file, "float32")
    assert not [*cache.glob("gguf-*/*")]


def test_a_file_without_a_head_has_its_embeddings_for_one(tmp_path, cache):
    tied = random_llama(3, tie_word_embeddings=True)
    file = written(tmp_path / "m.gguf", tied, tensors=lambda stored: stored.pop("output.weight"))
    text = generate(load_model(file, "float32"), [5, 6, 7], settings=Settings(20)).token_ids
    assert text == library_text(tied, (5, 6, 7), max_new_tokens=20)[: len(text)]


def test_what_is_wrong_with_a_file_is_said(tmp_path, cache):
    file = written(tmp_path / "m.gguf", random_llama(3))
    whole = file.read_bytes()
    at = whole.index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 2 * 8  # its type in the table

    def changed(content: bytes) -> Path:
        (tmp_path / "other.gguf").write_bytes(content)
        return tmp_path / "other.gguf"

    refused("type 99, which gguf [0-9.]+ does not know", changed(whole[:at] + b"\x63\0\0\0" + whole[at + 4 :]))
    refused(r"is cut off: it has .* bytes, and \S+ ends at", changed(whole[:-1]))
    refused("is cut off: it has 900 bytes, and its header more", changed(whole[:900]))
    refused("version 1: versions 2 and 3 are read", changed(whole[:4] + b"\1\0\0\0" + whole[8:]))
    refused("other.gguf is not a GGUF file", changed(b""))
    refused("other.gguf is not a GGUF file", changed(b"GGML" + whole[4:]))
    big = written(tmp_path / "big.gguf", random_llama(3), endianess=gguf.GGUFEndian.BIG)
    refused("big.gguf is a big-endian GGUF file", big)


def test_the_ending_may_be_in_capitals(tmp_path, cache):
    file = written(tmp_path / "Loud.F32.GGUF", random_llama(3))
    assert load_model(file, "float32").name == "Loud"
    refused("there is no model folder .*GGUF", tmp_path / "None.GGUF")


def test_a_model_in_parts_is_read_whole_or_not_at_all(tmp_path, cache):
    whole = load_model(written(tmp_path / "m.gguf", random_llama(3)), "float32").weights_hash
    written(tmp_path / "split.gguf", random_llama(3), split_max_tensors=10)
    parts = sorted(tmp_path.glob("split-*.gguf"))
    assert [part.name for part in parts] == [f"split-{i:05}-of-00004.gguf" for i in range(1, 5)]
    refused(f"is not the first part of its model: give {parts[0].name}", parts[1])
    loaded = load_model(parts[0], "float32")
    assert (loaded.name, loaded.weights_hash) == ("split", whole)
    before = [*cache.glob("gguf-*/*")]
    parts[2].rename(tmp_path / "lost")
    refused(f"is a model in 4 parts, and {parts[2].name} is not beside it", parts[0])
    shutil.copy(parts[1], parts[2])
    refused(f"{parts[2].name} says that it is part 2 of 4", parts[0])
    assert [*cache.glob("gguf-*/*")] == before


def test_a_cache_of_other_rules_or_without_a_card_is_made_anew(tmp_path, cache, monkeypatch):
    file = written(tmp_path / "m.gguf", random_llama(3))
    first = load_model(file, "float32").weights_hash
    (folder,) = cache.glob("gguf-*/*")
    card = json.loads((folder / ours.CARD).read_text())
    assert card["rules"] == ours.RULES and card["files"][0][0] == str(file)
    for broken in (card | {"rules": 1}, None):
        (folder / "config.json").write_text("{}")
        (folder / ours.CARD).unlink()
        if broken is not None:
            (folder / ours.CARD).write_text(json.dumps(broken))
        assert check_request(file, "auto", "auto") == file
        assert load_model(file, "float32").weights_hash == first
    monkeypatch.setattr(ours, "RULES", ours.RULES + 1)
    assert ours.converted(file) != folder


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("Llama-3.2-1B-Q4_K_M.gguf", "Llama-3.2-1B"),
        ("tiny.iq2_xs.gguf", "tiny"),
        ("plain.gguf", "plain"),
        ("LOUD.Q8_0.GGUF", "LOUD"),
        ("Llama-3.1-70B-Q4_K_M-00002-of-00003.gguf", "Llama-3.1-70B"),
    ],
)
def test_a_model_is_called_as_its_file_less_the_quantisation(file, name):
    assert ours.gguf_name(Path(file)) == name
