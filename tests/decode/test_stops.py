"""Stop strings end a text where `transformers.StopStringCriteria` does."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import StopStringCriteria

from lede.decode.load import from_transformers
from lede.decode.stops import StopStrings
from tests.models import FIXED, bpe_tokenizer, byte_llama, byte_tokenizer, llama, sentencepiece_tokenizer

TOKENIZERS = {"bytes": byte_tokenizer(), "bpe": bpe_tokenizer(), "sentencepiece": sentencepiece_tokenizer()}
MODELS = {
    name: from_transformers(llama(vocab_size=len(tokenizer) + 3), torch.float32, tokenizer=tokenizer)
    for name, tokenizer in TOKENIZERS.items()
}
WORDS = [
    "stop",
    "the stop",
    "ops",
    " top",
    "p",
    "日本",
    "本",
    "🎈 a",
    "ï",
    "st op",
    "\n",
    "— n",
    "<end>",
    "stopper stop",
]


@settings(FIXED, max_examples=150)
@given(
    st.sampled_from(sorted(TOKENIZERS)),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True),
    st.lists(st.one_of(st.sampled_from(WORDS), st.integers(0, 312)), min_size=1, max_size=8),
)
@example("sentencepiece", ["日"], [3 + 0xE6, "日"])
@example("bpe", ["stopstop"], ["stop", 311, "stop", "stop"])
def test_a_text_ends_at_the_token_at_which_it_ends_in_transformers(name, strings, parts):
    """Parts are words, or single tokens: some without meaning, some that the tokenizer does not have."""
    tokenizer, model = TOKENIZERS[name], MODELS[name]
    text = []
    for part in parts:
        text += [part] if isinstance(part, int) else tokenizer(part, add_special_tokens=False)["input_ids"]
    library = StopStringCriteria(tokenizer, strings)
    ours = StopStrings(model, tuple(strings))
    for end in range(1, len(text) + 1):
        assert ours(text[:end]) == bool(library(torch.tensor([text[:end]]), None)), tokenizer.decode(text[:end])


def test_a_stop_string_longer_than_the_text_is_looked_at_only_while_it_matches(monkeypatch):
    model = from_transformers(byte_llama(), torch.float32, tokenizer=byte_tokenizer())
    text = model.tokenizer("ab " * 500)["input_ids"]
    check = StopStrings(model, ("x" * 5000 + "b ",))
    looked_at = []
    piece = check.piece
    monkeypatch.setattr(check, "piece", lambda token: looked_at.append(token) or piece(token))
    assert not any(check(text[:end]) for end in range(1, len(text) + 1))
    assert len(looked_at) < 3 * len(text)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_stop_string_may_begin_in_the_prompt(name):
    tokenizer = TOKENIZERS[name]
    text = tokenizer("the stop", add_special_tokens=False)["input_ids"]
    assert StopStrings(MODELS[name], ("he stop",))(text)
