"""GGUF files: converted once and whole, exact, and refused by name before anything slow is imported."""

import json
from pathlib import Path

import pytest

from lede.decode import gguf as ours
from lede.decode.config import check_request
from lede.decode.errors import ModelError
from lede.decode.generate import generate
from lede.decode.load import load_model
from lede.decode.sampling import Settings
from tests.models import bpe_tokenizer, byte_llama, library_text

gguf = pytest.importorskip("gguf")


def random_llama(seed: int):
    """A Llama for `bpe_tokenizer` whose weights bf16 holds."""
    model = byte_llama(seed, vocab_size=len(bpe_tokenizer()), eos_token_id=1)
    for weight in model.parameters():
        weight.copy_(weight.bfloat16())  # not `to`, which would round the rotary table too
    return model


def written(path: Path, model, architecture: str = "llama") -> Path:
    """A GGUF file of a random Llama with `bpe_tokenizer`, as llama.cpp's converter writes one."""
    config, tokenizer = model.config, bpe_tokenizer()
    out = gguf.GGUFWriter(path, architecture)
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
    out.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    out.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(tokenizer) - 2))
    out.add_token_merges(
        [" ".join(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]
    )
    out.add_bos_token_id(0)
    out.add_eos_token_id(1)
    out.add_chat_template("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[answer]")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}.get(name[-13:-12], 0)
        if heads and name.endswith("_proj.weight"):  # this format pairs the two halves of a head's rows
            weight = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        stored = names.get_name(name.removesuffix(".weight"))
        out.add_tensor(f"{stored}.weight", weight.float().contiguous().numpy())
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
    monkeypatch.setattr(ours, "find_spec", lambda name: None)  # neither package is needed again
    assert check_request(file, "auto", "auto") == folder
    assert load_model(file, "float32").weights_hash == loaded.weights_hash


def test_another_file_of_the_same_name_is_converted_anew_and_a_failed_conversion_leaves_nothing(tmp_path, cache):
    file = written(tmp_path / "small.gguf", random_llama(3))
    first = load_model(file, "float32")
    file.unlink()
    assert load_model(written(file, random_llama(4)), "float32").weights_hash != first.weights_hash
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"cannot load the model .*small\.gguf: is the file whole\?"):
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
    with pytest.raises(ModelError, match=r"needs gguf and accelerate: install with pip install 'lede\[gguf\]'"):
        check_request(written(tmp_path / "llama.gguf", random_llama(3)), "auto", "auto")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("Llama-3.2-1B-Q4_K_M.gguf", "Llama-3.2-1B"),
        ("tiny.iq2_xs.gguf", "tiny"),
        ("plain.gguf", "plain"),
    ],
)
def test_a_model_is_called_as_its_file_less_the_quantisation(file, name):
    assert ours.gguf_name(Path(file)) == name
