"""The prompt loader: what it takes, how it names what it refuses, and that splits never share a module."""

import json
from pathlib import Path

import pytest

from lede.collect import stdlib
from lede.collect.errors import PromptError
from lede.collect.prompts import MAX_CHARACTERS, PER_MODULE, Prompt, load_prompts, stdlib_prompts
from lede.replay.split import SPLITS, split_of

TALK = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "How?"},
)


def written(folder: Path, *lines: object) -> Path:
    """A prompt file of these lines: bytes and strings as they are, anything else as JSON."""
    path = folder / "prompts.jsonl"
    raw = [x if isinstance(x, bytes) else (x if isinstance(x, str) else json.dumps(x)).encode() for x in lines]
    path.write_bytes(b"\n".join(raw))
    return path


def test_every_way_to_write_a_prompt(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"prompt": "Once", "id": "a", "task": "story", "reference": "upon"},
        {"question_id": 7, "category": "qa", "turns": ["Why?", "And then?"], "reference": ["Because", "Then"]},
        {"messages": [*TALK, {"role": "assistant", "content": "Fine"}], "id": "talk"},
        "",
        {"prompt": "Twice\u2028or more", "reference": [["first", "second"]], "task": None},
        '{"prompt": "Thrice", "reference": []}\r',
    )
    assert load_prompts(path) == [
        Prompt("a", "story", "Once", "upon"),
        Prompt("7", "qa", "Why?", "Because", messages=({"role": "user", "content": "Why?"},), turns=("And then?",)),
        Prompt("talk", "prompts", "Hi", "Fine", messages=TALK),
        Prompt("prompts:5", "prompts", "Twice\u2028or more", "first"),
        Prompt("prompts:6", "prompts", "Thrice", None),
    ]


def test_a_turn_is_a_prompt_with_all_that_was_said_before() -> None:
    first = Prompt("a", "qa", "Hi", "Hey", messages=TALK[:2], turns=("How?", "Why?"))
    assert first.turn() is first
    third = first.turn(["Hello", "Well"])
    assert [m["content"] for m in third.content] == ["Be kind.", "Hi", "Hello", "How?", "Well", "Why?"]
    assert [m["role"] for m in third.content] == ["system", "user", *("assistant", "user") * 2]
    assert (third.id, third.turns, third.reference) == ("a/3", (), None)
    assert first.turn(["Hello"]).turns == ("Why?",)
    assert (third.group, third.split) == (first.group, first.split)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    assert load_prompts(written(tmp_path, b'\xef\xbb\xbf{"prompt": "Once"}'))[0].text == "Once"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (["Once"], "expected a JSON object, not a list"),
        (None, "expected a JSON object, not null"),
        ({"text": "Once"}, "neither `prompt` nor `turns`"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": 3}, "`prompt` must be a string, not a number"),
        ({"prompt": "x\ud800"}, "half of a surrogate pair"),
        ({"turns": []}, "not an empty list"),
        ({"turns": "Once"}, "`turns` must be a list with a string in it, not a string"),
        ({"turns": [{}]}, r"`turns\[0\]` must be a string, not an object"),
        ({"messages": []}, "`messages` must be a list with an object in it, not an empty list"),
        ({"messages": ["Hi"]}, r"`messages\[0\]` must be an object, not a string"),
        ({"messages": [{"role": "user"}]}, r"`messages\[0\].content` must be a string, not null"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "the prompt is empty"),
        ({"prompt": "Twice", "id": "a"}, "id 'a' is already that of line 1"),
        ({"prompt": "Twice", "id": True}, "`id` must be a string, not true or false"),
        ({"prompt": "Twice", "task": 1.5}, "`task` must be a string"),
        ({"prompt": "Twice", "group": ["a"]}, "`group` must be a string, not a list"),
        ({"prompt": "Twice", "reference": {}}, "`reference` must be a string, not an object"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, complaint: str) -> None:
    path = written(tmp_path, {"prompt": "Once", "id": "a"}, line)
    with pytest.raises(PromptError, match=f"prompts.jsonl, line 2: .*{complaint}"):
        load_prompts(path)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(PromptError, match=f"cannot read prompts from {path}"):
            load_prompts(path)
    with pytest.raises(PromptError, match="holds no prompts"):
        load_prompts(written(tmp_path, "", ""))


def test_no_module_is_in_two_splits_or_in_the_training_text() -> None:
    held_out = {m.name for m in stdlib.modules() if m.held_out}
    sides = [stdlib_prompts(split) for split in SPLITS]
    modules = [{p.id.partition(":")[0] for p in side} for side in sides]
    assert all(modules)
    assert set.union(*modules) <= held_out
    assert sum(map(len, modules)) == len(set.union(*modules))
    texts = [p.text for side in sides for p in side]
    assert len(set(texts)) == len(texts)
    for split, side in zip(SPLITS, sides, strict=True):
        assert {(p.split, p.group) for p in side} == {(split, p.id.partition(":")[0]) for p in side}
    key = {p.id: p for p in stdlib_prompts("all")}
    assert key == {p.id: p for side in sides for p in side}
    assert {p.split for p in stdlib_prompts("all", 40)} == set(SPLITS)


def test_the_lines_of_a_conversation_or_a_group_are_on_one_side(tmp_path: Path) -> None:
    lines = [{"prompt": f"turn {i}", "conversation": i // 4} for i in range(80)]
    lines += [{"prompt": "other", "group": "a book"}, {"prompt": "alone"}, {"prompt": "alone", "id": "again"}]
    path = written(tmp_path, *lines)
    prompts = load_prompts(path)
    assert [p.group for p in prompts[:8]] == ["0"] * 4 + ["1"] * 4
    assert [p.split for p in prompts[:81]] == [split_of(str(i // 4)) for i in range(80)] + [split_of("a book")]
    assert prompts[-1].group == prompts[-2].group not in ("", prompts[0].group)  # by its text
    parts = [load_prompts(path, split) for split in SPLITS]
    assert sorted(map(len, parts)) != [0, 0, 83]
    assert sorted((p for part in parts for p in part), key=prompts.index) == prompts
    with pytest.raises(PromptError, match="has no prompts in its split validation: add some, or take --split all"):
        load_prompts(written(tmp_path, {"prompt": "x", "group": "json.decoder"}), "validation")


def test_there_are_enough_and_none_twice() -> None:
    for split, enough in (("train", 400), ("test", 100)):
        prompts = stdlib_prompts(split)  # type: ignore[arg-type]
        assert len(prompts) >= enough
        assert len({p.id for p in prompts}) == len({p.text for p in prompts}) == len(prompts)
        names = [p.id.partition(":")[0] for p in prompts]
        assert max(names.count(n) for n in set(names)) <= PER_MODULE


def test_a_prompt_and_its_reference_are_the_modules_own_text() -> None:
    sources = {m.name: stdlib.read(m) or "" for m in stdlib.modules() if m.held_out}
    for prompt in stdlib_prompts("test", limit=100):
        module, _, name = prompt.id.partition(":")
        assert prompt.reference is not None and prompt.reference.strip()
        assert prompt.text + prompt.reference in sources[module]
        assert f"def {name.rpartition('.')[2]}" in prompt.text or len(prompt.text) > MAX_CHARACTERS // 2
        assert not prompt.text.endswith("\n")


def test_the_order_is_the_seeds() -> None:
    first = stdlib_prompts("validation", seed=1)
    assert first == stdlib_prompts("validation", seed=1)
    assert first[:5] == stdlib_prompts("validation", limit=5, seed=1)
    assert first[:5] != stdlib_prompts("validation", limit=5, seed=2)
