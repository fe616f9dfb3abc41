"""A trace shows every token once, in the style of whoever wrote it."""

import pytest
from typer.testing import CliRunner

from lede.cli import app
from lede.decode.round import Round
from lede.serve.stream import Decoder
from lede.serve.trace import DEPTHS, LOOKUP, REJECTED, VERIFIER, Tracer
from tests.models import byte_tokenizer, sentencepiece_tokenizer

TOKENIZER = byte_tokenizer()
TRACER = Tracer(Decoder(TOKENIZER), layer_count=16)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER(text)["input_ids"])


def pieces(layer: int | None, drafts: str, accepted: int, committed: str) -> list[tuple[str, str]]:
    """(text, style) of a traced round."""
    return traced(TRACER, layer, ids(drafts), accepted, ids(committed))


def traced(tracer, layer, drafts, accepted, committed) -> list[tuple[str, str]]:
    clocks = {name: 0.0 for name in ("seconds", "draft_seconds", "verify_seconds")}
    text = tracer.round(Round(0, layer, drafts, (), accepted, committed, (), False, **clocks))
    return [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]


def test_accepted_rejected_and_the_verifier_s_own_are_told_apart():
    green = DEPTHS[0]
    assert pieces(1, "abcd", 2, "abX") == [("ab", green), ("cd", REJECTED), ("X", VERIFIER)]
    assert pieces(1, "ab", 2, "abc") == [("ab", green), ("c", VERIFIER)]
    assert pieces(1, "ab", 0, "X") == [("ab", REJECTED), ("X", VERIFIER)]
    assert pieces(None, "", 0, "X") == [("X", VERIFIER)]


def test_without_styles_rejected_drafts_are_in_marks():
    tracer = Tracer(Decoder(TOKENIZER), 16, marks=True)
    assert [text for text, _ in traced(tracer, 1, ids("ab"), 1, ids("aX"))] == ["a", "[-b-]", "X"]
    assert "[-rejected-]" in tracer.legend((1,)).plain


def test_a_round_that_a_stop_cut_shows_no_more_than_was_committed():
    assert pieces(1, "abc", 3, "ab") == [("ab", DEPTHS[0])]


def test_words_of_a_sentencepiece_tokenizer_stay_apart():
    tokenizer = sentencepiece_tokenizer()
    before = tokenizer("the")["input_ids"]
    stop, stopper, top = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("stop", "stopper", "top"))
    assert tokenizer.decode(stop) == "stop"  # alone, it has no space before it
    tracer = Tracer(Decoder(tokenizer, before), 16)
    assert traced(tracer, 1, (*stop, *top), 1, (*stop, *stopper)) == [
        (" stop", DEPTHS[0]),
        (" top", REJECTED),
        (" stopper", VERIFIER),
    ]
    assert traced(tracer, None, (), 0, tuple(top)) == [(" top", VERIFIER)]


def test_a_character_is_shown_once_it_is_whole():
    tracer, first, last = Tracer(Decoder(TOKENIZER), 16), ids("é")[:1], ids("é")[1:]
    assert traced(tracer, 1, (*ids("a"), *first), 2, (*ids("a"), *first, *last)) == [("a", DEPTHS[0]), ("é", VERIFIER)]


def test_text_is_shown_as_it_is_markup_or_not():
    assert pieces(0, "[red]", 5, "[red]!") == [("[red]", LOOKUP), ("!", VERIFIER)]


@pytest.mark.parametrize("layers", [2, 4, 16, 32])
def test_every_layer_has_a_colour_and_deeper_is_never_brighter(layers):
    tracer = Tracer(Decoder(TOKENIZER), layers)
    styles = [tracer.style(layer) for layer in range(layers + 1)]
    assert styles[0] == LOOKUP == tracer.style(None)
    order = [DEPTHS.index(style) for style in styles[1:]]
    assert order == sorted(order)
    assert order[-1] == len(DEPTHS) - 1


def test_the_legend_names_candidates_in_their_colours():
    legend = TRACER.legend((0, 4, 8))
    assert legend.plain == "lookup  layer 4  layer 8  the full model's own  rejected"
    shown = {legend.plain[span.start : span.end]: str(span.style) for span in legend.spans}
    assert shown["layer 8"] == TRACER.style(8)
    assert shown["lookup"] == LOOKUP


def test_the_command_shows_long_lines_as_they_are(checkpoint):
    prompt = "x" * 150 + "  def mean(values):"
    arguments = ["--model", str(checkpoint), "--plain", "--trace", "--threads", "1", "--max-new-tokens", "2"]
    assert CliRunner().invoke(app, ["generate", "-p", prompt, *arguments]).stdout.startswith(prompt)
