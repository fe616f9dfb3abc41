"""A streamed text is the tokenizer's decode of the whole, in pieces, whatever the rounds are."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lede.serve.stream import Decoder
from tests.models import FIXED, bpe_tokenizer, byte_tokenizer, sentencepiece_tokenizer

TOKENIZERS = {"bytes": byte_tokenizer(), "bpe": bpe_tokenizer(), "sentencepiece": sentencepiece_tokenizer()}
TEXTS = ["the stop", " at  the", "naïve", "日本語", "🎈", "\n\n", "a", " ", "�", "<s>", "<end>"]


def streamed(tokenizer, tokens, sizes, **options) -> str:
    decoder, pieces, start = Decoder(tokenizer, **options), [], 0
    for size in [*sizes, len(tokens)]:
        pieces.append(decoder.add(tokens[start : start + size]))
        start += size
    return "".join(pieces) + decoder.peek()


@settings(FIXED, max_examples=300)
@given(
    st.sampled_from(sorted(TOKENIZERS)),
    st.lists(st.one_of(st.sampled_from(TEXTS), st.integers(0, 256)), max_size=12),
    st.lists(st.integers(0, 5), max_size=20),
    st.integers(0, 3),
    st.booleans(),
)
@example("sentencepiece", ["日本"], [1] * 10, 1, True)
@example("sentencepiece", [250, "<s>", 200, 80, "a", "<end>", 66, "日"], [1] * 20, 1, True)
@example("bpe", ["<s>", "the stop", "🎈"], [1] * 10, 2, True)
def test_the_pieces_are_the_whole_s_decode(name, parts, sizes, cut, skip):
    """Parts are texts, or single tokens; the whole may end inside a character."""
    tokenizer, tokens = TOKENIZERS[name], []
    for part in parts:
        tokens += [part] if isinstance(part, int) else tokenizer(part, add_special_tokens=False)["input_ids"]
    tokens = tokens[: len(tokens) - cut]
    expected = tokenizer.decode(tokens, skip_special_tokens=skip)
    assert streamed(tokenizer, tokens, sizes, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_that_ends_inside_a_character_is_flushed_as_it_decodes(name):
    tokenizer = TOKENIZERS[name]
    tokens = tokenizer("the 語", add_special_tokens=False)["input_ids"][:-1]
    assert tokenizer.decode(tokens).endswith("\N{REPLACEMENT CHARACTER}")
    assert streamed(tokenizer, tokens, [1] * len(tokens)) == tokenizer.decode(tokens)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_characters_come_as_soon_as_they_are_whole(size):
    text = "naïve — 日本 🎈!"
    tokens, decoder, shown = TOKENIZERS["bytes"](text)["input_ids"], Decoder(TOKENIZERS["bytes"]), ""
    for start in range(0, len(tokens), size):
        shown += decoder.add(tokens[start : start + size])
        assert shown == bytes(text, "utf-8")[: start + size].decode("utf-8", errors="ignore")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_that_goes_on_keeps_its_first_space(name):
    tokenizer = TOKENIZERS[name]
    whole = tokenizer("the stop at the top", add_special_tokens=False)["input_ids"]
    for split in range(1, len(whole)):
        before, after = whole[:split], whole[split:]
        rest = streamed(tokenizer, after, [1] * len(after), before=before)
        assert tokenizer.decode(before) + rest == "the stop at the top"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_decoded_grow_with_the_text_and_not_with_its_square(name):
    class Counting:
        decoded = 0

        def __getattr__(self, attribute):
            return getattr(TOKENIZERS[name], attribute)

        def decode(self, tokens, **options):
            self.decoded += len(tokens)
            return TOKENIZERS[name].decode(tokens, **options)

    tokenizer = Counting()
    tokens = TOKENIZERS[name]("the stop, naïve 日本\n" * 60)["input_ids"]
    streamed(tokenizer, tokens, [3] * (len(tokens) // 3))
    assert tokenizer.decoded < 12 * len(tokens)
