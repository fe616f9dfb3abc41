"""A streamed text is the tokenizer's decode of the whole, in pieces, whatever the rounds are."""

from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lede.decode.stops import StopStrings
from lede.serve.stream import Answer, Decoder
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


def answer(name, tokens, stops=(), **options):
    """(text, tokens that it took, whether a stop string ended it, offsets)"""
    made = Answer(SimpleNamespace(tokenizer=TOKENIZERS[name]), tuple(stops), located=True, **options)
    text = ""
    for token in tokens:
        text += made.add(token)
        if made.ended:
            break
    return text + made.rest(), len(made.tokens), made.ended, made.offsets


def ids(name, *parts):
    tokenizer, tokens = TOKENIZERS[name], []
    for part in parts:
        tokens += [part] if isinstance(part, int) else tokenizer(part, add_special_tokens=False)["input_ids"]
    return tokens


@settings(FIXED, max_examples=200)
@given(
    st.sampled_from(sorted(TOKENIZERS)),
    st.lists(st.sampled_from(TEXTS), min_size=1, max_size=10),
    st.lists(
        st.sampled_from(["the", "a", "<end>", "<s><end>", "p<end>", "<end> a", "日", "🎈\n", "st", " "]), max_size=3
    ),
)
@example("sentencepiece", ["日本", "a"], ["日"])
@example("sentencepiece", ["the stop", "a"], [" the"])
@example("bytes", ["a", "<end>", "a"], ["a<end>a"])
@example("bpe", ["top", "<end>", "<s>", " at the"], ["p<end><s> a"])
def test_an_answer_ends_at_the_token_at_which_generate_ends_it(name, parts, stops):
    """And its text is the tokenizer's of what is before the stop string, special tokens not shown."""
    tokens, tokenizer = ids(name, *parts), TOKENIZERS[name]
    ends = StopStrings(SimpleNamespace(tokenizer=tokenizer), tuple(stops))
    ended = next((n for n in range(1, len(tokens) + 1) if ends(tokens[:n])), None)
    text, taken, found, _ = answer(name, tokens, stops)
    assert (taken, found) == (ended or len(tokens), ended is not None)
    if ended is None:
        assert text == tokenizer.decode(tokens, skip_special_tokens=True)
    else:
        assert tokenizer.decode(tokens[:ended], skip_special_tokens=True).startswith(text)
        shown = answer(name, tokens, stops, special=True)[0]
        assert not any(stop in shown for stop in stops)
        assert shown.replace("<s>", "").replace("<end>", "").replace("<unk>", "").strip() == text.strip()
        kept = answer(name, tokens, stops, special=True, keep=True)[0]
        assert any(kept.lstrip().endswith(stop.lstrip()) for stop in stops)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_special_token_is_a_stop_string_and_part_of_one(name):
    for stop, text, taken in (("<end>", "top", 1), ("top<end>", "", 1), ("p<end>", "to", 1), ("<end>a", "top", 2)):
        tokens = ids(name, "top", "<end>", *TOKENIZERS[name].convert_tokens_to_ids(["a", "b"]))
        plain = len(ids(name, "top"))
        found = answer(name, tokens, [stop])
        assert found[:3] == (text, plain + taken, True), stop


def test_no_stop_string_ends_within_the_tokens_that_are_asked_for_at_least():
    tokens = ids("bytes", "abab")
    for least, taken, text in ((0, 2, ""), (1, 2, ""), (2, 4, "ab"), (3, 4, "ab"), (4, 4, "abab")):
        assert answer("bytes", tokens, ["ab"], least=least)[:2] == (text, taken)
    assert answer("bytes", ids("bytes", "abc"), ["abc", "ab"], least=2)[:2] == ("", 3)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_offsets_are_the_characters_that_tokens_begin_in(name):
    text = "naïve the 日本 🎈!"
    tokens = ids(name, text)
    pieces = StopStrings(SimpleNamespace(tokenizer=TOKENIZERS[name]), ())
    written, offsets = answer(name, tokens)[0], answer(name, tokens)[3]
    assert written == text
    place, starts = 0, []  # in bytes; and where each character begins
    for character in text:
        starts.append(place)
        place += len(character.encode())
    place = -1 if name == "sentencepiece" else 0  # whose first token has a space that the text has not
    for token, offset in zip(tokens, offsets, strict=True):
        assert offset == max(i for i, start in enumerate(starts) if start <= max(place, 0))
        place += len(pieces.piece(token))
    assert answer(name, [*ids(name, "ab", "<end>"), *ids(name, "a")])[3][-1] == len(
        TOKENIZERS[name].decode(ids(name, "ab", "<end>"), skip_special_tokens=True)
    )
