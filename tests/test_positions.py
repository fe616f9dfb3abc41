"""Rotary positions: every kind writes what `transformers` writes, on both sides of the length before scaling."""

from typing import Any

import pytest
import torch

from lede.decode.config import llama_config
from lede.decode.errors import ModelError
from lede.decode.generate import generate
from lede.decode.load import from_transformers
from lede.decode.rules import LayerSkip
from lede.decode.sampling import Settings
from tests.models import library_text, llama

ORIGINAL = 24  # tokens before scaling
TOKENS = 24
PROMPTS = {"within": 6, "crossing": 14, "longer": 40}  # prompt tokens; all texts but the first end behind ORIGINAL
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 16 for i in range(16)],
    "long_factor": [2.0 + i / 2 for i in range(16)],
}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
THEN = {"original_max_position_embeddings": ORIGINAL}
KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "default, partial": {"rope_type": "default", "partial_rotary_factor": 0.5},  # which the library leaves aside
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "dynamic, uneven": {"rope_type": "dynamic", "factor": 4.1},
    "yarn": {"rope_type": "yarn", "factor": 4.0} | THEN,
    "yarn, no original": {"rope_type": "yarn", "factor": 4.0},
    "yarn, attention factor": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "truncate": False} | THEN,
    "yarn, betas": {
        "rope_type": "yarn",
        "factor": 4.0,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 0.8,
        "mscale_all_dim": 0.5,
    }
    | THEN,
    "longrope": LONG | THEN,
    "longrope, no original": LONG | {"factor": 4.0},
    "longrope, attention factor": LONG | {"attention_factor": 1.3} | THEN,
    "llama3": LLAMA3 | THEN,
    "llama3, no original": LLAMA3,
}


def positions(kind: str) -> int:
    """max_position_embeddings: the length before scaling where the parameters do not name that."""
    own = "original_max_position_embeddings" in KINDS[kind] or kind.startswith("default")
    return 4 * ORIGINAL if own else ORIGINAL


@pytest.mark.parametrize("native", [True, False], ids=["native", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_writes_what_the_library_writes(kind, native):
    changes = {"rope_parameters": KINDS[kind] | {"rope_theta": 300.0}, "max_position_embeddings": positions(kind)}
    model = from_transformers(llama(seed=3, **changes), torch.float32, native=native)
    assert model.native == native
    for length in PROMPTS.values():
        prompt = tuple((7 * i + i * i) % 61 for i in range(length))
        # a fresh one each time: the library's dynamic kind goes on with what an earlier, longer text left behind
        expected = library_text(llama(seed=3, **changes), prompt, max_new_tokens=TOKENS)
        for rule in (None, LayerSkip(2, 5)):
            done = generate(model, list(prompt), rule, Settings(TOKENS))
            assert done.token_ids == expected, (length, rule)


def test_kinds_make_a_difference():
    texts = {}
    for kind in KINDS:
        changes = {"rope_parameters": KINDS[kind] | {"rope_theta": 300.0}, "max_position_embeddings": positions(kind)}
        model = from_transformers(llama(seed=3, **changes), torch.float32)
        texts[kind] = generate(model, [(7 * i + i * i) % 61 for i in range(40)], None, Settings(TOKENS)).token_ids
    assert len(set(texts.values())) >= len(KINDS) - 4  # some are alike on purpose: partial ones, and the two yarns


@pytest.mark.parametrize(
    ("given", "context"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        # Vicuna-16k, in the old spelling; LLaMA-2-7B-32K, whose length is the scaled one
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 4096),
        ({"max_position_embeddings": 32768, "rope_scaling": {"type": "yarn", "factor": 8.0} | THEN}, 32768),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "yarn", "factor": 8.0}}, 32768),
        ({"max_position_embeddings": 131072, "rope_parameters": LLAMA3 | {"factor": 32.0} | THEN}, 131072),
        ({"max_position_embeddings": 131072, "rope_parameters": LONG | THEN, "head_dim": 32}, 131072),
        (
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                "rope_scaling": LONG,
                "head_dim": 32,
            },
            131072,
        ),
    ],
)
def test_the_context_is_what_the_scaling_gives(given, context):
    assert llama_config("m", {"model_type": "llama"} | given).context == context


def test_old_spellings_mean_the_same():
    new = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0}
    old = {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 500000.0}
    rotary = [llama_config("m", {"model_type": "llama"} | given).rotary for given in ({"rope_parameters": new}, old)]
    assert rotary[0].items() <= rotary[1].items()


@pytest.mark.parametrize(
    ("rope", "match"),
    [
        ({"rope_type": "mrope"}, "of the kind 'mrope': supported are default, linear"),
        ({"rope_type": "linear"}, "'linear' rotary embeddings without factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "without low_freq_factor and high_freq_factor"),
        (LONG | {"long_factor": [1.0]} | THEN, "another head size: they should be 64"),
        ({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0}, "partial_rotary_factor 0 "),
        ({"rope_type": "linear", "factor": 0}, "factor 0: it must be a number above 0"),
        ({"rope_theta": 0.0}, "rope_theta 0.0"),
        (LLAMA3 | {"original_max_position_embeddings": 0}, "original_max_position_embeddings 0"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(rope, match):
    with pytest.raises(ModelError, match=match):
        llama_config("m", {"model_type": "llama", "rope_parameters": rope})
