"""The exported folder gives `transformers` what its own `generate` gives: type, tokens, streams and stops."""

import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    MistralConfig,
    MistralForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from lede.decode.errors import ModelError
from lede.decode.exits import save_exits
from lede.decode.load import from_transformers
from lede.paths import default_model_path
from lede.serve.custom_generate import _decoders, export
from tests.decode.test_exits import exit_heads
from tests.models import byte_llama, byte_tokenizer, with_zero_for
from tests.serve.test_generate import random_policy

TOKENIZER = byte_tokenizer()
MODEL = byte_llama()
INPUTS = TOKENIZER("def mean(values):", return_tensors="pt")


@pytest.fixture(scope="module", autouse=True)
def custom(tmp_path_factory):
    """What asks for the exported folder."""
    folder = tmp_path_factory.mktemp("exported") / "my-lede.1"
    policy = random_policy(from_transformers(MODEL, torch.float32), 3)
    export(folder, policy, "tiny")
    policy.save(folder / "policy")
    return {"custom_generate": str(folder), "trust_remote_code": True}


class Recorder(BaseStreamer):
    def __init__(self):
        self.seen = []

    def put(self, value):
        self.seen.append(value)

    def end(self):
        self.seen.append("end")


class After(StoppingCriteria):
    """Ends a text of so many tokens."""

    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= self.length)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 60},
        {"max_length": 40, "num_beams": 1, "use_cache": True},
        {"max_new_tokens": 30, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
        {"generation_config": GenerationConfig(max_new_tokens=25, min_new_tokens=20)},
        {"max_new_tokens": 40, "logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])},
        {"max_new_tokens": 60, "stopping_criteria": StoppingCriteriaList([After(29)])},
        {"max_new_tokens": 60, "eos_token_id": list(range(60))},
        {"max_new_tokens": 60, "stop_strings": ["a", "9", "Z"], "tokenizer": TOKENIZER},
        {"max_new_tokens": 200, "eos_token_id": None},
        {"max_new_tokens": 1},
    ],
)
def test_tokens_and_streams_are_those_of_generate(custom, options):
    ours, theirs = Recorder(), Recorder()
    expected = MODEL.generate(**INPUTS, do_sample=False, pad_token_id=0, streamer=theirs, **options)
    found = MODEL.generate(**INPUTS, do_sample=False, pad_token_id=0, streamer=ours, **options, **custom)
    assert type(found) is torch.Tensor and found.dtype == expected.dtype
    assert torch.equal(found, expected)
    assert [getattr(value, "tolist", str)() for value in ours.seen[:-1]] == [v.tolist() for v in theirs.seen[:-1]]
    assert ours.seen[-1] == theirs.seen[-1] == "end"


def test_a_dictionary_any_policy_and_a_prompt_of_the_begin_of_text(custom):
    options = {"do_sample": False, "max_new_tokens": 30, "pad_token_id": 0}
    expected = MODEL.generate(**INPUTS, **options, return_dict_in_generate=True)
    found = MODEL.generate(**INPUTS, **options, return_dict_in_generate=True, **custom)
    assert type(found) is type(expected) and torch.equal(found.sequences, expected.sequences)
    for policy in (None, f"{custom['custom_generate']}/policy", random_policy(from_transformers(MODEL, torch.float32))):
        assert torch.equal(MODEL.generate(INPUTS["input_ids"], policy=policy, **options, **custom), expected.sequences)
    begin = {"bos_token_id": 5}
    assert torch.equal(MODEL.generate(**options, **begin, **custom), MODEL.generate(**options, **begin))


def test_sampling_keeps_to_torch_s_seed(custom):
    def sample(seed):
        torch.manual_seed(seed)
        return MODEL.generate(**INPUTS, do_sample=True, max_new_tokens=20, pad_token_id=0, **custom).tolist()

    assert sample(1) == sample(1) != sample(2)


def test_the_decoder_is_made_once_and_again_for_other_weights(custom):
    model, options = byte_llama(), {"do_sample": False, "max_new_tokens": 20, "pad_token_id": 0}
    for policy in (None, None, "changed"):
        if policy:
            model.model.norm.weight.mul_(-1)
        found = model.generate(**INPUTS, **options, policy=None, **custom)
        assert torch.equal(found, model.generate(**INPUTS, **options))
        made = _decoders[model][1]
        assert model.generate(**INPUTS, **options, policy=None, **custom) is not None
        assert _decoders[model][1] is made


LATER = {  # what changes weights and raises no version counter
    "all of the head": lambda model: model.lm_head.weight.data.add_(0.5 * torch.randn(model.lm_head.weight.shape)),
    "a row of the embeddings": lambda model: model.model.embed_tokens.weight.data[INPUTS.input_ids[0, -1]].neg_(),
    "a norm": lambda model: model.model.norm.weight.data.neg_(),
    "two layers exchanged": lambda model: [
        part.weight.data.copy_(part.weight.data.flip(0)) for part in (layer.mlp.up_proj for layer in model.model.layers)
    ],
    "one number": lambda model: model.model.layers[1].mlp.down_proj.weight.data[3, 7].fill_(300.0),
    "through numpy": lambda model: model.lm_head.weight.numpy().__imul__(-1),
    "another head": lambda model: setattr(model.lm_head, "weight", byte_llama(seed=7).lm_head.weight),
}


@pytest.mark.parametrize("change", LATER)
def test_weights_changed_after_the_first_call_give_the_new_text(custom, change):
    model, options = byte_llama(), {"do_sample": False, "max_new_tokens": 20, "pad_token_id": 0}
    texts = []
    for _ in range(2):
        texts.append(model.generate(**INPUTS, **options))
        assert torch.equal(model.generate(**INPUTS, **options, policy=None, **custom), texts[-1])
        LATER[change](model)
    assert not torch.equal(*texts)


def test_what_is_put_in_after_the_first_call_is_refused_and_what_is_taken_off_is_not(custom):
    model, options = byte_llama(), {"do_sample": False, "max_new_tokens": 20, "pad_token_id": 0, "policy": None}
    expected = model.generate(**INPUTS, **options, **custom)
    for module in (model, model.lm_head, model.model.layers[1]):
        handle = module.register_forward_hook(lambda module, given, made: made)
        with pytest.raises(ModelError, match="has the forward hook"):
            model.generate(**INPUTS, **options, **custom)
        handle.remove()
        assert torch.equal(model.generate(**INPUTS, **options, **custom), expected)
    model.model.norm.to(torch.float64)
    with pytest.raises(ModelError, match=r"of several dtypes \(torch\.float32, torch\.float64\)"):
        model.generate(**INPUTS, **options, **custom)


def test_adapters_are_refused_by_name_until_they_are_merged(custom):
    peft = pytest.importorskip("peft")
    options = {"do_sample": False, "max_new_tokens": 20, "pad_token_id": 0}
    plain = byte_llama().generate(**INPUTS, **options)
    for where in ("lm_head", "q_proj", "down_proj"):
        torch.manual_seed(0)
        model = byte_llama()
        assert torch.equal(model.generate(**INPUTS, **options, policy=None, **custom), plain)
        config = peft.LoraConfig(r=4, lora_alpha=64, target_modules=[where], init_lora_weights=False)
        adapted = peft.get_peft_model(model, config)
        for asked in (adapted, model):
            with pytest.raises(ModelError, match=rf"{where} is a peft\.tuners\.lora\.layer\.Linear"):
                asked.generate(**INPUTS, **options, policy=None, **custom)
        with pytest.raises(ModelError, match=r"the model is a peft\.peft_model\."):
            from_transformers(adapted, torch.float32)
        expected = adapted.generate(**INPUTS, **options)
        merged = adapted.merge_and_unload()
        assert merged is model
        found = model.generate(**INPUTS, **options, policy=None, **custom)
        assert torch.equal(found, model.generate(**INPUTS, **options)) and torch.equal(found, expected)
        assert not torch.equal(found, plain)
    prompted = peft.get_peft_model(byte_llama(), peft.PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ModelError, match=r"the model has another prepare_inputs_for_generation|inputs_embeds"):
        prompted.generate(**INPUTS, **options, policy=None, **custom)


def test_token_0_ends_a_text(custom):
    plain = byte_llama().generate(**INPUTS, do_sample=False, max_new_tokens=30, pad_token_id=1)[
        0, INPUTS.input_ids.shape[1] :
    ]
    end = next(int(token) for token in plain[4:] if token not in INPUTS.input_ids)
    model = with_zero_for(byte_llama(), end)
    for options in ({"eos_token_id": 0}, {"eos_token_id": [0]}, {"eos_token_id": None}):
        options |= {"do_sample": False, "max_new_tokens": 30, "pad_token_id": 1, "policy": None}
        theirs = {name: value for name, value in options.items() if name != "policy"}
        expected = model.generate(**INPUTS, **theirs)
        assert torch.equal(model.generate(**INPUTS, **options, **custom), expected)
        assert (expected[0, -1] == 0) == (options["eos_token_id"] is not None)


def test_limits_of_0_are_refused_as_by_generate(custom):
    for options in ({"max_new_tokens": 0}, {"max_length": 0}, {"max_length": 5}):
        for more in ({}, custom | {"policy": None}):
            with pytest.raises(ValueError, match=r"max_new_tokens|max_length"):
                MODEL.generate(**INPUTS, **options, **more)


def test_exit_heads(custom, tmp_path):
    heads = exit_heads(from_transformers(MODEL, torch.float32), layers=(1,))
    heads = save_exits(tmp_path, heads.card, heads.weights)
    policy = random_policy(from_transformers(MODEL, torch.float32, exits=heads, draft_vocabulary=()))
    options = {"do_sample": False, "max_new_tokens": 30, "pad_token_id": 0}
    found = MODEL.generate(**INPUTS, **options, policy=policy, exits=tmp_path, **custom)
    assert torch.equal(found, MODEL.generate(**INPUTS, **options))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"prefix_allowed_tokens_fn": lambda batch, ids: [1]}, "prefix_allowed_tokens_fn"),
        ({"assistant_model": MODEL}, "assistant_model"),
        ({"position_ids": torch.zeros(1, 17)}, "position_ids"),
        ({"return_dict_in_generate": True, "output_scores": True}, "output_scores"),
        ({"input_ids": INPUTS["input_ids"].repeat(2, 1), "attention_mask": None}, "2 rows"),
        ({"attention_mask": torch.zeros(1, 17, dtype=torch.long)}, "attention_mask hides"),
        ({"stop_strings": ["a"]}, "tokenizer"),
        ({"policy": "nothing"}, "no such folder"),
        ({"nonsense": 3}, "nonsense"),
    ],
)
def test_what_cannot_be_done_exactly_is_refused_by_name(custom, options, named):
    with pytest.raises(ValueError, match=named):
        MODEL.generate(**INPUTS | options, max_new_tokens=4, **custom)


def test_another_kind_of_model_and_a_policy_of_another_are_refused(custom):
    with pytest.raises(ValueError, match="other weights"):
        byte_llama(seed=1).generate(**INPUTS, max_new_tokens=4, **custom)
    sizes = {name: getattr(MODEL.config, name) for name in ("hidden_size", "vocab_size", "head_dim")}
    model = MistralForCausalLM(MistralConfig(**sizes, intermediate_size=32, num_hidden_layers=2))
    with pytest.raises(ModelError, match="only Llama checkpoints"):
        model.generate(**INPUTS, max_new_tokens=4, policy=None, **custom)


def test_the_command_exports_the_embedded_model_s_policy(tmp_path):
    out = tmp_path / "lede-for-tiny"
    done = subprocess.run([sys.executable, "-m", "lede", "export", str(out), "--to", "transformers"], timeout=120)
    assert done.returncode == 0
    assert "custom_generate" in (out / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(default_model_path(), dtype=torch.float32)
    prompt, options = torch.tensor([[5, 9, 2, 30, 7]]), {"do_sample": False, "max_new_tokens": 40, "pad_token_id": 0}
    found = model.generate(prompt, **options, custom_generate=str(out), trust_remote_code=True)
    assert torch.equal(found, model.generate(prompt, **options))
    prompt = AutoTokenizer.from_pretrained(default_model_path())("    unittest.main()\n", return_tensors="pt").input_ids
    found = model.generate(prompt, **options, custom_generate=str(out), trust_remote_code=True)
    assert torch.equal(found, model.generate(prompt, **options)) and found[0, -1] == 0  # its end of text
    wrong = subprocess.run(
        [sys.executable, "-m", "lede", "export", str(out), "--to", "onnx"], capture_output=True, text=True
    )
    assert (wrong.returncode, wrong.stderr) == (2, "lede: --to onnx: give transformers, csv, hf, d3rlpy or minari\n")
