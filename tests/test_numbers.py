"""Numbers and strings at the edge of what an option takes."""

import math

import pytest
import torch
from typer.testing import CliRunner

from lede.cli import app
from lede.decode.errors import ModelError
from lede.decode.load import from_transformers
from lede.decode.sampling import Settings
from lede.serve.generate import generate
from tests.models import byte_llama, byte_tokenizer, library_text

PROMPT = "def mean(values):"
LIBRARY = byte_llama()
MODEL = from_transformers(LIBRARY, torch.float32, tokenizer=byte_tokenizer())
IDS = tuple(MODEL.tokenizer(PROMPT)["input_ids"])


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1, 2**64, 2**100 + 7])
def test_a_seed_of_any_size_is_taken_modulo_2_to_the_64(seed):
    def text(value: int) -> tuple[int, ...]:
        return generate(MODEL, PROMPT, max_new_tokens=20, temperature=1.5, seed=value).token_ids

    assert text(seed) == text(seed % 2**64)
    assert text(seed) != text(seed - 1)


@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 1e-31, 1e-29, 1e-10])
def test_a_temperature_near_zero_is_greedy(temperature):
    expected = library_text(LIBRARY, IDS, max_new_tokens=20)
    for top_k in (None, 0):
        done = generate(MODEL, PROMPT, max_new_tokens=20, temperature=temperature, top_k=top_k, seed=1)
        assert done.token_ids == expected


def test_a_temperature_without_bounds_draws_from_every_token():
    done = generate(MODEL, PROMPT, max_new_tokens=200, temperature=math.inf, top_k=0, seed=1)
    assert len(set(done.token_ids)) > 80


@pytest.mark.parametrize("options", [{"temperature": math.nan}, {"temperature": -1e-40}, {"top_p": math.nan}])
def test_what_is_no_number_is_refused_by_name(options):
    with pytest.raises(ModelError, match=next(iter(options))):
        generate(MODEL, PROMPT, **options)


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ModelError, match="a stop string is empty"):
        Settings(stop_strings=("a", ""))


def test_the_command_takes_large_seeds_and_refuses_an_empty_stop_string(checkpoint):
    def run(*arguments: str):
        return CliRunner().invoke(
            app,
            ["generate", "-p", PROMPT, "--model", str(checkpoint), "--plain", "--json", "--threads", "1", *arguments],
        )

    for seed in (2**63, 2**64 + 1):
        done = run("--seed", str(seed), "--temperature", "1", "--max-new-tokens", "3")
        assert done.exit_code == 0, done.output
    empty = run("--stop", "")
    assert empty.exit_code == 2
    assert "a stop string is empty" in empty.output
