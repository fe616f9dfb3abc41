"""`adapt --exits`: heads learn to say what the model says, whose weights stay; stopped anywhere, they go on."""

import dataclasses
import inspect
import itertools
import json
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from lede.adapt import corpus
from lede.adapt.config import ExitsConfig
from lede.adapt.errors import AdaptError
from lede.adapt.exits import train_exits
from lede.adapt.heads import Heads, draft_vocabulary
from lede.adapt.model import write
from lede.adapt.report import ExitsReport
from lede.adapt.states import States
from lede.collect.errors import PromptError
from lede.decode.exits import load_exits
from lede.decode.load import load_model
from lede.replay.split import group_of, split_of
from tests.models import bpe_tokenizer, byte_llama, byte_tokenizer, library_text

TINY = ExitsConfig(exits=(1, 2), context=32, steps=60, own_text=1200, answer=24, draft_vocabulary=128, other_lr=3e-3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint in bf16, with 64 numbers as prompts beside it."""
    folder = tmp_path_factory.mktemp("model") / "small"
    byte_llama().to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    rows = [{"prompt": f"number {i * i}"} for i in range(64)]
    (folder.parent / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def prompts(model: Path) -> Path:
    return model.parent / "prompts.jsonl"


def trained(model: Path, out: Path, config: ExitsConfig = TINY, **given: Any) -> ExitsReport:
    return train_exits(str(model), given.pop("text", prompts(model)), out, config, compiled=False, **given)


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExitsReport]:
    """The folder of one small training, and its report."""
    out = tmp_path_factory.mktemp("finished")
    return out, trained(model, out)


def test_heads_learn_what_the_model_says_and_fit_it(model: Path, finished: tuple[Path, ExitsReport]) -> None:
    out, report = finished
    before = Heads(LlamaForCausalLM.from_pretrained(model), (1, 2), load_exits(out).vocabulary, compiled=False)
    held_out = States([load_file(out / "states" / "00000.safetensors")])
    first = before.agreement(held_out)
    assert first[1] + 0.05 < report.agreement[1] and first[2] < report.agreement[2] <= report.coverage < 1
    assert (report.vocabulary, report.held_out) == (128, len(held_out.next_tokens()))
    exits = load_exits(out)
    decoder, agreed = load_model(model, "float32", exits=exits), 0
    for number in range(8):
        tokens, taught = (held_out.whole(name)[held_out.whole("document") == number] for name in ("tokens", "taught"))
        cache = decoder.cache(len(tokens))
        x = decoder.run(0, 2, decoder.embed(tokens.tolist()), 0, cache)
        said = torch.tensor([s.token for s in decoder.said(decoder.speak(2, x, 0, cache))])
        agreed += int((said[:-1] == tokens[1:])[taught[:-1]].sum())
    some = States([{name: x[held_out.whole("document") < 8] for name, x in held_out.files[0].items()}])
    heads = Heads(LlamaForCausalLM.from_pretrained(model), (1, 2), exits.vocabulary, compiled=False)
    heads.load_state_dict({name.removeprefix("exits."): w for name, w in exits.weights.items() if "." in name})
    assert agreed / len(some.next_tokens()) == pytest.approx(heads.agreement(some)[2], abs=0.05)
    assert exits.layers == (1, 2)
    assert exits.card["agreement"] == {str(layer): share for layer, share in report.agreement.items()}
    assert f"| 2 | {report.agreement[2]:.1%} |" in (out / "README.md").read_text()


def test_stopped_anywhere_it_goes_on_as_if_it_had_not(
    model: Path, finished: tuple[Path, ExitsReport], tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop_at(stage: str, count: int) -> Callable[[str, float, str], None]:
        left = itertools.count(count, -1)

        def stop(at: str, share: float, note: str) -> None:
            if at == stage and next(left) == 0:
                raise Stop

        return stop

    often = dataclasses.replace(TINY, checkpoint_every=0)
    for stage, count in (("hidden states", 10), ("hidden states", 30), ("training", 7), ("training", 9)):
        with pytest.raises(Stop):
            trained(model, tmp_path, often, on_progress=stop_at(stage, count))
    steps: list[str] = []
    report = trained(model, tmp_path, on_progress=lambda stage, share, note: steps.append(stage))
    whole, other = load_exits(finished[0]).weights, load_exits(tmp_path).weights
    assert 10 < steps.count("training") < TINY.steps
    assert report.agreement == finished[1].agreement
    assert all(torch.equal(whole[name], other[name]) for name in whole)
    with pytest.raises(AdaptError, match=r"another training \(different: own_text, seed\)"):
        trained(model, tmp_path, dataclasses.replace(TINY, own_text=1300, seed=1))


def test_a_batch_writes_what_the_library_writes() -> None:
    model, rows = byte_llama(), [[5, 6, 7], [1], [9] * 10, [4, 3]]
    alone = [library_text(model, tuple(row), max_new_tokens=40) for row in rows]
    ends = {alone[0][3], alone[3][20]}
    counted: list[int] = []
    for row, reference in zip(write(model, rows, 40, ends, counted.append)[0], alone, strict=True):
        stops = [i for i, token in enumerate(reference) if token in ends]
        assert row == list(reference[: stops[0] + 1 if stops else 40])
        counted.append(-len(row))
    assert sum(counted) == 0


@pytest.mark.parametrize("file", ["held-out", "greedy", "drawn"])
def test_states_are_the_models_own_and_prompts_are_learned_once(
    model: Path, finished: tuple[Path, ExitsReport], file: str
) -> None:
    library = LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    files = sorted((finished[0] / "states").glob("*.safetensors"))
    kept = load_file({"held-out": files[0], "greedy": files[1], "drawn": files[-1]}[file])
    for number in kept["document"].unique()[:3]:
        rows = kept["document"] == number
        tokens, taught = kept["tokens"][rows], kept["taught"][rows]
        prompt = byte_tokenizer().decode(tokens[: int(taught.nonzero()[0]) + 1])
        assert prompt == "n" if file == "greedy" else f'"{prompt}"' in prompts(model).read_text()
        assert taught.sum() == len(tokens) - len(prompt) and not taught[-1]
        reference = library(tokens[None].long(), output_hidden_states=True).hidden_states
        for name, state in (("layer.1", reference[1]), ("layer.2", reference[2]), ("last", reference[-1])):
            assert (kept[name][rows].float() - state[0].float())[taught].abs().mean() < 0.05


def test_texts_are_learned_as_they_are_and_a_full_disk_cuts_them(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(inspect.getsource(textwrap))
    config = dataclasses.replace(TINY, own_text=0, steps=1, exits=(2,), draft_vocabulary=0)
    report = trained(model, tmp_path / "all", config, text=text)
    assert (report.own_tokens, report.cut, report.vocabulary, report.coverage) == (0, False, 257, 1.0)
    assert "draft_vocabulary" not in load_exits(tmp_path / "all").weights
    small = trained(model, tmp_path / "cut", dataclasses.replace(config, disk=2e-3), text=text)
    used = sum(path.stat().st_size for path in (tmp_path / "cut" / "states").iterdir())
    assert small.cut and TINY.context < small.tokens < report.tokens and used < 2e6
    both = trained(model, tmp_path / "both", dataclasses.replace(config, own_text=600), text=text)
    assert both.own_tokens >= 600 and both.tokens > report.tokens


def test_the_draft_vocabulary_is_what_is_frequent_and_what_ends_texts() -> None:
    tokens = torch.tensor([7, 5, 5, 3, 3, 3, 9, 4], dtype=torch.int32)
    taught = torch.tensor([0, 0, 0, 0, 0, 1, 0, 0]).bool()  # 9 comes once, and is to be learned
    states = States([{"tokens": tokens[:4], "taught": taught[:4]}, {"tokens": tokens[4:], "taught": taught[4:]}])
    assert draft_vocabulary(states, 12, 4, {11}).tolist() == [3, 5, 9, 11]
    assert draft_vocabulary(states, 12, 6, {11}).tolist() == [3, 4, 5, 7, 9, 11]  # the lower id of two as frequent
    assert draft_vocabulary(states, 12, 0, {11}) is None
    assert states.rows("tokens", 2, 6).tolist() == [5, 3, 3, 3]


def test_chats_go_through_the_template_and_end_before_the_answer(tmp_path: Path) -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}>"
    user, answer = {"role": "user", "content": "the"}, {"role": "assistant", "content": "top"}
    rows = [{"messages": [user, answer]}, {"turns": ["the", "at"]}, {"prompt": "the"}, {"prompt": "the", "group": "g9"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    given = [(tokenizer.decode(ids), held_out) for ids, held_out in corpus.prompts(path, tokenizer)]
    assert [text for text, _ in given] == ["<s>[user]the>", "<s>[user]the>", "<s>the", "<s>the"]
    assert [held_out for _, held_out in given] == [split_of(group_of("the")) != "train"] * 3 + [
        split_of("g9") != "train"
    ]
    for wrong in ('{"text": "x"}', "[1]", "{", '{"prompt": ""}', '{"messages": [{"role": "user"}]}'):
        path.write_text(f'{{"prompt": "a"}}\n{wrong}\n')
        with pytest.raises(PromptError, match="line 2: "):
            list(corpus.prompts(path, tokenizer))


def test_what_cannot_be_done_is_named(model: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "a"}\n')
    for config, text, complaint in (
        (dataclasses.replace(TINY, exits=(2, 4)), prompts(model), "exits 2, 4: give layers from 1 to 3"),
        (dataclasses.replace(TINY, exits=()), prompts(model), "give layers from 1 to 3"),
        (dataclasses.replace(TINY, own_text=0), prompts(model), "hidden states of 0 tokens"),
        (dataclasses.replace(TINY, context=512), prompts(model), "knows 256 positions"),
        (TINY, few, "prompts or texts to train on and"),
    ):
        with pytest.raises(AdaptError, match=complaint):
            trained(model, tmp_path / "out", config, text=text)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    with pytest.raises(AdaptError, match="has 4 tokens: give 32 or more, or 0"):
        dataclasses.replace(TINY, draft_vocabulary=4)
