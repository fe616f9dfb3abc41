"""What a checkpoint's generation config asks for: the text is that of `transformers`' `generate`, whatever drafts."""

import itertools
import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessorList, MinPLogitsWarper
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper
from typer.testing import CliRunner

from lede.cli import app
from lede.decode.errors import ModelError
from lede.decode.generate import generate as decode
from lede.decode.generation_config import request
from lede.decode.load import from_transformers, load_model
from lede.decode.rules import Autoregressive, LayerSkip
from lede.decode.sampling import Greedy, chooser
from lede.serve.generate import generate
from tests.decode.test_sampling import DOUBTFUL, LENGTH, VOCABULARY, p_value
from tests.models import FIXED, byte_llama, byte_tokenizer, llama
from tests.rules import RandomRule

TOKENS = 24
PROMPTS = [(3,), (5, 9, 2, 30, 7, 1), (11, 12, 13) * 4]
LIBRARY = llama(seed=1)
MODEL = from_transformers(LIBRARY, torch.float32)


def library_text(config: dict, prompt: tuple[int, ...], **options) -> tuple[int, ...]:
    """The new tokens of `transformers` for a checkpoint with this generation config."""
    LIBRARY.generation_config = GenerationConfig(**config)
    torch.manual_seed(0)
    return tuple(LIBRARY.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist())


def written(config: dict, prompt: tuple[int, ...], rule=None, **options) -> tuple[int, ...]:
    """The same from here, under an exit rule."""
    LIBRARY.generation_config = GenerationConfig(**config)
    model = from_transformers(LIBRARY, torch.float32)
    return decode(model, prompt, rule, request(model, len(prompt), options)).token_ids


PLAIN = [library_text({"max_new_tokens": TOKENS}, prompt) for prompt in PROMPTS]
END = PLAIN[1][4]  # an end of text that comes early
FIRST = [text[0] for text in PLAIN]
PAIRS = [list(text[i : i + 2]) for text in PLAIN for i in (2, 5)]
CASES: dict[str, dict] = {
    "repetition_penalty": {"repetition_penalty": 1.6},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "suppress_tokens": {"suppress_tokens": list(PLAIN[0][:3])},
    "begin_suppress_tokens": {"begin_suppress_tokens": FIRST},
    "bad_words_ids": {"bad_words_ids": [[FIRST[0]], *PAIRS]},
    "sequence_bias": {"sequence_bias": [[[FIRST[0]], -9.0], *([pair, -9.0] for pair in PAIRS), [[4, 5], 2.0]]},
    "min_length": {"eos_token_id": END, "min_length": 20},
    "min_new_tokens": {"eos_token_id": [END, 60], "min_new_tokens": 12},
    "forced_bos_token_id": {"forced_bos_token_id": 17},
    "forced_eos_token_id": {"forced_eos_token_id": 17},
    "exponential_decay_length_penalty": {"eos_token_id": 60, "exponential_decay_length_penalty": (4, 1.4)},
    "watermarking_config": {"watermarking_config": {"greenlist_ratio": 0.5, "bias": 2.0}},
    "eos_token_id": {"eos_token_id": END},
    "max_new_tokens": {"max_new_tokens": 9},
    "max_length": {"max_length": 20, "max_new_tokens": None},
    "several": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "suppress_tokens": [END],
        "min_new_tokens": 8,
        "eos_token_id": 60,
        "exponential_decay_length_penalty": (10, 1.2),
        "forced_eos_token_id": 60,
        "renormalize_logits": True,
        "remove_invalid_values": True,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_each_option_changes_the_text_as_in_transformers(case):
    config = {"max_new_tokens": TOKENS} | CASES[case]
    expected = [library_text(config, prompt) for prompt in PROMPTS]
    assert expected != PLAIN
    for number, (prompt, text) in enumerate(zip(PROMPTS, expected, strict=True)):
        rules = [None, LayerSkip(1, 12), RandomRule((0, 1, 2, 3), seed=number), LayerSkip(0, 5)]
        rules[-1].needs_state = True
        for rule in rules:
            assert written(config, prompt, rule) == text, rule


@settings(FIXED, max_examples=30)
@given(
    st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in CASES.items() if name != "max_length"}),
    st.sampled_from(PROMPTS),
    st.integers(0, 99),
    st.integers(1, 14),
    st.booleans(),
    st.booleans(),
)
def test_any_options_together_under_any_rule(chosen, prompt, seed, drafts, keeps_last, state):
    config = {"max_new_tokens": TOKENS}
    for values in chosen.values():
        config |= values
    rule = RandomRule((0, 1, 2, 3, 4), seed, 0.5, 0.8)
    rule.max_drafts, rule.keeps_last, rule.needs_state, rule.needs_lookup = drafts, keeps_last, state, state
    assert written(config, prompt, rule) == library_text(config, prompt)


def test_what_the_caller_gives_overrides_the_checkpoint():
    config = {"max_new_tokens": TOKENS, "repetition_penalty": 1.6, "eos_token_id": END, "min_new_tokens": 3}
    for options in (
        {"repetition_penalty": 1.0},
        {"repetition_penalty": None},
        {"max_new_tokens": 5},
        {"min_p": 0.3},
        {"eos_token_id": None, "min_new_tokens": None},
        {"no_repeat_ngram_size": 2, "eos_token_id": [7]},
    ):
        assert written(config, PROMPTS[1], LayerSkip(1, 4), **options) == library_text(config, PROMPTS[1], **options)


def test_without_a_generation_config_128_tokens_are_written_greedily():
    settings = request(MODEL, 3, {})
    assert (settings.max_new_tokens, settings.temperature) == (128, 0.0)
    assert type(chooser(settings, MODEL, [1, 2, 3])) is Greedy
    assert chooser(settings, MODEL, [1, 2, 3]).plain


def test_a_config_that_asks_for_sampling_is_sampled_and_temperature_0_is_greedy():
    config = {"max_new_tokens": TOKENS, "do_sample": True, "temperature": 3.0, "top_p": 0.95}
    LIBRARY.generation_config = GenerationConfig(**config)
    model = from_transformers(LIBRARY, torch.float32)
    texts = [generate(model, PROMPTS[1], seed=seed).token_ids for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    for greedy in ({"temperature": 0.0}, {"do_sample": False}):
        assert generate(model, PROMPTS[1], **greedy).token_ids == PLAIN[1]
    assert generate(model, PROMPTS[1], top_k=1, seed=3).token_ids == PLAIN[1]


SAMPLING = llama(seed=4, vocab_size=VOCABULARY, num_hidden_layers=3)
DISTRIBUTIONS = {
    "repetition penalty, min-p": {"repetition_penalty": 1.4, "min_p": 0.08},
    "top-k, top-p": {"top_k": 5, "top_p": 0.9, "no_repeat_ngram_size": 2},
    "typical": {"typical_p": 0.8, "suppress_tokens": [3]},
    "epsilon, eta": {"epsilon_cutoff": 0.06, "eta_cutoff": 0.1, "repetition_penalty": 0.8},
}


def probabilities(config: dict, prompt: list[int]) -> torch.Tensor:
    """(8, 8, 8): of every three tokens behind a prompt, as the library processes each position."""
    SAMPLING.generation_config = GenerationConfig(**config)
    joint = torch.ones((VOCABULARY,) * LENGTH, dtype=torch.float64)
    for position in range(LENGTH):
        for before in itertools.product(range(VOCABULARY), repeat=position):
            text = torch.tensor([[*prompt, *before]])
            out = SAMPLING.generate(text, max_new_tokens=1, output_scores=True, return_dict_in_generate=True)
            p = torch.softmax(out.scores[0][0].double(), -1)
            joint[before] *= p.view(-1, *[1] * (LENGTH - position - 1))
    return joint


@pytest.mark.parametrize("case", DISTRIBUTIONS)
def test_samples_have_the_library_s_distribution(case):
    prompt, plain = [1, 2, 5, 1], {"do_sample": True, "temperature": 1.2, "max_new_tokens": LENGTH}
    joint = probabilities(plain | DISTRIBUTIONS[case], prompt)
    model = from_transformers(SAMPLING, torch.float32)
    rule, counts = RandomRule((0, 1, 2), seed=3), torch.zeros_like(joint)
    for seed in range(800):
        counts[decode(model, prompt, rule, request(model, len(prompt), {}, seed)).token_ids] += 1
    assert p_value(counts, joint) > DOUBTFUL
    assert min(p_value(counts.sum(axis), joint.sum(axis)) for axis in (0, 2)) > DOUBTFUL
    assert p_value(counts, probabilities(plain, prompt)) < DOUBTFUL  # processors left out would be seen


REFUSED = {
    "num_beams": 4,
    "guidance_scale": 1.5,
    "penalty_alpha": 0.6,
    "max_time": 3.0,
    "token_healing": True,
    "num_return_sequences": 2,
    "cache_implementation": "quantized",
    "watermarking_config": {"ngram_len": 5, "keys": [1, 2, 3]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name_and_can_be_turned_off(name):
    model = from_transformers(llama(seed=1), torch.float32)
    model.generation_config = {name: REFUSED[name], "max_new_tokens": TOKENS}
    with pytest.raises(ModelError, match=rf"^{name} = .*turn it off with {name}=.*--option {name}=") as caught:
        generate(model, PROMPTS[1])
    assert "\n" not in str(caught.value)
    off = json.loads(str(caught.value).rsplit("=", 1)[1].rstrip(")"))
    assert generate(model, PROMPTS[1], **{name: off}).token_ids == PLAIN[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penality": 1.2}, "unknown generation option 'repetition_penality'"),
        ({"repetition_penalty": -1.0}, "generation config cannot be used: .*penalty"),
        ({"exponential_decay_length_penalty": (1, 1.5)}, "generation config cannot be used"),
        ({"temperature": "hot"}, "wrong type"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"stop_strings": 3}, "wrong type"),
        ({"max_length": 5}, "the prompt has 6 tokens, and max_length.* is 5: give max_new_tokens"),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(options, message):
    with pytest.raises(ModelError, match=message) as caught:
        generate(MODEL, PROMPTS[1], **options)
    assert "\n" not in str(caught.value)


def test_it_is_read_from_the_checkpoint_s_folder(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    config = {"repetition_penalty": 1.7, "eos_token_id": 256, "max_new_tokens": 20, "stop_strings": ["nowhere in it"]}
    (folder / "generation_config.json").write_text(json.dumps(config))
    library, tokenizer = byte_llama(), byte_tokenizer()
    ids = torch.tensor([tokenizer("def mean(values):")["input_ids"]])
    library.generation_config = GenerationConfig(**config)
    expected = library.generate(ids, tokenizer=tokenizer)[0, ids.shape[1] :].tolist()
    model = load_model(folder, "float32", "cpu")
    assert list(generate(model, "def mean(values):").token_ids) == expected
    assert expected != list(generate(model, "def mean(values):", repetition_penalty=1.0).token_ids)


def test_a_checkpoint_s_stop_strings_end_the_text():
    library, tokenizer = byte_llama(), byte_tokenizer()
    ids = torch.tensor([tokenizer("def mean(values):")["input_ids"]])
    text = library.generate(ids, max_new_tokens=30)[0, ids.shape[1] :].tolist()
    stop = next(c for c in map(tokenizer.decode, text[8:]) if c.isascii() and c.isprintable())
    for strings in (stop, [stop, "never"]):
        library.generation_config = GenerationConfig(max_new_tokens=30, stop_strings=strings)
        model = from_transformers(library, torch.float32, tokenizer=tokenizer)
        done = generate(model, ids)
        assert list(done.token_ids) == library.generate(ids, tokenizer=tokenizer)[0, ids.shape[1] :].tolist()
        assert done.finish == "stop_string"
        assert generate(model, ids, stop_strings=("never",)).finish == "length"


def test_the_caller_s_own_processor_takes_the_place_of_the_checkpoint_s_of_its_kind():
    config = {"max_new_tokens": TOKENS, "repetition_penalty": 1.1}
    own = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.8)])
    expected = library_text(config, PROMPTS[1], logits_processor=own)
    model = from_transformers(LIBRARY, torch.float32)
    assert generate(model, PROMPTS[1], logits_processor=own).token_ids == expected != library_text(config, PROMPTS[1])


def test_sampling_options_make_the_library_s_warpers():
    settings = request(MODEL, 2, {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9})
    made = list(chooser(settings, MODEL, [1, 2])._processors)
    assert [type(p) for p in made[1:4]] == [TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper]
    assert made[1].top_k == 50  # the library's default
    assert request(MODEL, 2, {"temperature": 0.7, "top_k": 0}).top_k == 0


def test_plain_decoding_makes_no_processors():
    model = from_transformers(llama(seed=1, eos_token_id=60), torch.float32)
    model.generation_config |= {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "max_length": 60}
    choice = chooser(request(model, 1, {}), model, [1])
    assert choice.plain
    assert decode(model, [1], Autoregressive(), request(model, 1, {})).finish in ("length", "stop")


def command(checkpoint, *arguments: str):
    base = ["generate", "-p", "def mean(values):", "--model", str(checkpoint), "--plain", "--threads", "1"]
    return CliRunner().invoke(app, [*base, "--dtype", "float32", "--device", "cpu", *arguments])


def test_the_command_takes_any_option(checkpoint):
    def text(*arguments: str) -> str:
        done = command(checkpoint, "--json", "--max-new-tokens", "12", *arguments)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["text"]

    model = load_model(checkpoint, "float32", "cpu")
    expected = generate(model, "def mean(values):", max_new_tokens=12, repetition_penalty=1.7, bad_words_ids=[[100]])
    assert text("--option", "repetition_penalty=1.7", "-o", "bad_words_ids=[[100]]") == expected.text != text()
    message = command(checkpoint, "--option", "stop_strings=x").output
    assert "an option of its own" in message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("num_beams=4", "--option num_beams=1"),
        ("nonsense=1", "unknown generation option 'nonsense'"),
        ("temperature=1", "an option of its own"),
        ("repetition_penalty", "give NAME=VALUE"),
        ("=1", "NAME=VALUE"),
    ],
)
def test_the_command_refuses_options_that_cannot_work(checkpoint, option, message):
    done = command(checkpoint, "--option", option)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_the_command_shows_what_is_decoded_when_the_text_ends_inside_a_character(checkpoint):
    outputs = []
    for most in range(1, 16):
        plain = command(checkpoint, "--max-new-tokens", str(most))
        whole = json.loads(command(checkpoint, "--max-new-tokens", str(most), "--json").stdout)["text"]
        assert plain.stdout == whole + "\n"
        outputs.append(whole)
    assert any(text.endswith("\N{REPLACEMENT CHARACTER}") for text in outputs)
