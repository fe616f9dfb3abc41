"""Loading: what cannot work is said in one line; what can is exact."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, LlamaConfig

from lede.decode.config import llama_config
from lede.decode.errors import ModelError
from lede.decode.facts import config_hash, config_hash_v2, model_facts
from lede.decode.generate import generate
from lede.decode.load import check_layers, from_transformers, load_model
from lede.decode.rules import LayerSkip
from lede.decode.sampling import Settings
from lede.paths import default_model_path
from tests.models import byte_llama, byte_tokenizer, library_text, llama


def refused(match: str, *arguments, call=load_model, **options) -> None:
    """The call raises a ModelError of one line that matches."""
    with pytest.raises(ModelError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.fixture
def copy(checkpoint, tmp_path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_a_missing_folder_is_named(tmp_path):
    refused("there is no model folder .*nothing", tmp_path / "nothing")
    refused("there is no model folder", "./nothing")


def test_a_folder_without_a_model_is_named(tmp_path):
    refused(f"cannot load the model {tmp_path}", tmp_path)


def test_other_architectures_are_refused_by_name(tmp_path):
    GPT2Config(n_layer=2).save_pretrained(tmp_path)
    refused("'gpt2' model: only Llama", tmp_path)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"num_hidden_layers": 1}, "at least two"),
    ],
)
def test_llamas_that_we_do_not_compute_are_refused(changes, match):
    refused(match, "m", LlamaConfig(**changes).to_dict(), call=llama_config)


def test_unknown_dtypes_and_devices_are_refused(checkpoint):
    refused("unknown dtype 'int8'", checkpoint, "int8")
    refused("'cuda:99' is not there", checkpoint, device="cuda:99")
    refused("device 'toaster' is not supported", checkpoint, device="toaster")
    refused("'meta' is not supported", checkpoint, device="meta")


def test_a_torn_checkpoint_is_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    refused("cannot load the model", copy)


def rewrite(folder: Path, change, form: str = "safetensors") -> None:
    """Save a checkpoint's weights anew, as `change` leaves them."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    (folder / "model.safetensors").unlink()
    if form == "safetensors":
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")


UP = "model.layers.2.mlp.up_proj.weight"


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: w.pop(UP), f"{UP} is missing"),
        (lambda w: w.pop("lm_head.weight"), "lm_head.weight is missing"),  # and nothing says that it is the embeddings
        (lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(128)}), "q_proj.bias is in its files"),
        (lambda w: w.update({UP: w[UP][:-1].clone()}), rf"{UP} has the shape \(95, 64\), by its config \(96, 64\)"),
        (lambda w: w.update({UP: w[UP].to(torch.int8)}), f"{UP} is of the type int8"),
        (lambda w: w.update({UP: w[UP].to(torch.float8_e4m3fn)}), f"{UP} is of the type float8_e4m3fn"),
        (lambda w: w[UP][3].fill_(float("nan")), f"numbers in {UP} that are NaN or too large for float32"),
        (lambda w: w[UP][3].fill_(float("-inf")), f"numbers in {UP} that are NaN or too large for float32"),
    ],
)
def test_weights_that_are_not_all_there_or_not_plain_are_named(copy, change, match, form):
    rewrite(copy, change, form)
    refused(match, copy, "fp32")


def test_a_head_that_the_config_does_not_tie_is_missed(tmp_path):
    copy = Path(shutil.copytree(default_model_path(), tmp_path / "lede-tiny"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    refused("lede-tiny: lm_head.weight is missing", copy)


def test_what_transformers_computes_anew_may_lie_in_a_checkpoint(copy):
    whole = load_model(copy, "fp32")
    rewrite(copy, lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}))
    assert load_model(copy, "fp32").weights_hash == whole.weights_hash


def test_a_number_too_large_for_the_dtype_is_named(copy):
    rewrite(copy, lambda w: w[UP][3].fill_(1e5))
    assert load_model(copy, "fp32").dtype == torch.float32
    refused(f"numbers in {UP} that are NaN or too large for float16", copy, "fp16")


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_said_and_do_not_end_the_text(native, temperature):
    library = byte_llama()
    library.model.layers[2].mlp.down_proj.weight.sign_().mul_(3e38)  # products of both signs overflow
    model = from_transformers(library, torch.float32, native=native)
    for rule in (None, LayerSkip(1, 3)):
        refused(
            "the logits of llama are NaN in float32", model, [1, 2, 3], rule, Settings(8, temperature), call=generate
        )


def test_a_file_of_torch_that_holds_anything_else_is_refused(copy):
    (copy / "model.safetensors").unlink()
    torch.save({"state_dict": {}}, copy / "pytorch_model.bin")
    refused("pytorch_model.bin should hold weights by their names alone", copy)


def test_a_broken_config_is_refused(copy):
    (copy / "config.json").write_text("{")
    refused("cannot load the model", copy)


def test_a_folder_is_loaded_with_its_tokenizer_and_end_of_text(checkpoint):
    model = load_model(checkpoint, "fp32")
    assert (model.name, model.layer_count, model.vocabulary, model.context) == ("tiny", 4, 257, 256)
    assert model.dtype == torch.float32
    assert model.stop_tokens == {256}
    prompt = model.tokenizer("x = ")["input_ids"]
    expected = library_text(byte_llama(), tuple(prompt), max_new_tokens=20)
    assert generate(model, "x = ", LayerSkip(1, 3), Settings(20)).token_ids == expected


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_load_in_any_dtype(tmp_path, stored):
    library = byte_llama().to(stored)
    library.save_pretrained(tmp_path)
    text = library_text(library.float(), (1, 2, 3), max_new_tokens=20)
    model = load_model(tmp_path, "float32")
    assert model.tokenizer is None
    assert generate(model, [1, 2, 3], LayerSkip(1, 3), Settings(20)).token_ids == text
    for dtype in ("bf16", "fp16", "float64"):
        done = generate(load_model(tmp_path, dtype), [1, 2, 3], LayerSkip(1, 3), Settings(5))
        assert len(done.token_ids) == 5 or done.finish == "stop"
    with pytest.raises(ModelError, match="no tokenizer: give token ids"):
        generate(model, "text")


def test_facts_name_the_checkpoint_whatever_its_dtype(checkpoint):
    facts = [model_facts(load_model(checkpoint, dtype)) for dtype in ("float32", "bfloat16", "float64", "float16")]
    assert facts[0] == facts[1] == facts[2] == facts[3]
    other = model_facts(from_transformers(byte_llama(seed=1), torch.float32, name="tiny"))
    assert other["config_hash"] == facts[0]["config_hash"]
    assert other["weights_hash"] != facts[0]["weights_hash"]
    deeper = model_facts(from_transformers(byte_llama(num_hidden_layers=5), torch.float32))
    assert deeper["config_hash"] != facts[0]["config_hash"]


def test_the_second_config_hash_adds_the_head_size_and_the_rotary_embedding():
    plain = {"rope_type": "default", "rope_theta": 5e5}
    scaled = plain | {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled |= {"original_max_position_embeddings": 64}
    changed = ({}, {"head_dim": 64}, {"rope_parameters": plain}, {"rope_parameters": scaled})
    configs = [llama_config("m", LlamaConfig(**changes).to_dict()) for changes in changed]
    assert len({config_hash(config) for config in configs}) == 1  # as it always was
    assert len({config_hash_v2(config) for config in configs}) == 4
    rope = {"rope_theta": 10000, "rope_type": "default", "attention_factor": None, "new": True}
    again = llama_config("m", {"model_type": "llama", "rope_parameters": rope})
    assert config_hash_v2(again) == config_hash_v2(configs[0])
    wider = llama_config("m", {"model_type": "llama", "intermediate_size": 96})
    assert config_hash(wider) != config_hash(again) and config_hash_v2(wider) != config_hash_v2(again)


def test_candidate_layers_are_checked_and_sorted():
    assert check_layers((3, 1, 0, 3), 4) == (0, 1, 3)
    for layers in ((4,), (1, -1), (), (2, 9)):
        refused("candidate layers", layers, 4, call=check_layers)


def test_requests_that_cannot_work_are_refused():
    model = from_transformers(llama(), torch.float32)
    wrong = {"empty": [], "160 tokens, the model's context is 160": [0] * 160, "outside 0…60": [1, 61], "outside": [-1]}
    for match, prompt in wrong.items():
        refused(match, model, prompt, call=generate)
    refused(r"exits at layers \[4\]", model, [1], LayerSkip(4, 2), call=generate)
    refused("stop strings need", model, [1], None, Settings(stop_strings=("a",)), call=generate)


def test_without_a_compiler_torch_computes(checkpoint):
    script = f"""
from lede.decode.generate import generate
from lede.decode.load import load_model
import json
model = load_model({str(checkpoint)!r}, device="cpu")
exact = load_model({str(checkpoint)!r}, "float32", device="cpu")
print(json.dumps([model.native, str(model.dtype), generate(exact, "x = ").token_ids[:20]]))
"""

    def run(**environment: str) -> list:
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=300
        )
        return json.loads(done.stdout)

    text = library_text(byte_llama(), tuple(byte_tokenizer()("x = ")["input_ids"]), max_new_tokens=20)
    assert run(LEDE_NATIVE="0") == [False, "torch.float32", list(text)]
