"""`adapt`: it learns, it goes on as if never stopped, a kill never costs the checkpoint, and what it exports opens."""

import dataclasses
import inspect
import json
import math
import os
import shutil
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lede.adapt import corpus, train
from lede.adapt.config import CONTINUING, AdaptConfig
from lede.adapt.errors import AdaptError
from lede.adapt.forward import Forward, dropout_rate, exit_bands, step_loss
from lede.adapt.model import new_model, open_llama
from lede.adapt.report import measure
from lede.adapt.run import adapt

TINY = AdaptConfig(layers=4, hidden=32, feed_forward=64, heads=2, vocabulary=320, context=32, batch=4, steps=30)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "textwrap.txt"
    path.write_text(inspect.getsource(textwrap), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one small training."""
    out = tmp_path_factory.mktemp("finished")
    adapt(text, out, TINY, compiled=False)
    return out


def stream(tokens: int = 3000) -> np.ndarray:
    """A text that can be learned: numbers that go up, with another start now and then."""
    return (np.arange(tokens) // 100 * 7 + np.arange(tokens)).astype(np.int32) % 300


def weights(model: LlamaForCausalLM) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_loss_falls(tmp_path: Path) -> None:
    seen: list[float] = []
    model = new_model(TINY, end_of_text=0)
    train.train(model, stream(), TINY, tmp_path, lambda p: seen.append(p.loss), compiled=False)
    assert len(seen) == TINY.steps
    assert seen[0] == pytest.approx(math.log(TINY.vocabulary), abs=0.3)
    assert seen[-1] < seen[0] - 0.5


def test_a_resumed_training_is_the_one_that_was_not_stopped(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_at_12(progress: train.Progress) -> None:
        if progress.step == 12:
            raise Stop

    whole = new_model(TINY, 0)
    train.train(whole, stream(), TINY, tmp_path / "whole", compiled=False)
    often = dataclasses.replace(TINY, checkpoint_every=0)
    with pytest.raises(Stop):
        train.train(new_model(often, 0), stream(), often, tmp_path / "parts", stop_at_12, compiled=False)
    steps: list[int] = []
    resumed = new_model(dataclasses.replace(TINY, seed=5), 0)  # its weights must not matter
    train.train(resumed, stream(), TINY, tmp_path / "parts", lambda p: steps.append(p.step), compiled=False)
    assert steps == list(range(12, TINY.steps + 1))  # the step that was not saved is done once more
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=1e-6)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    short = dataclasses.replace(TINY, steps=1)
    train.train(new_model(short, 0), stream(), short, tmp_path, compiled=False)
    with pytest.raises(AdaptError, match=r"another training \(different: layer_dropout, the text\)"):
        other = dataclasses.replace(short, layer_dropout=0.5, checkpoint_every=7)
        train.train(new_model(other, 0), stream()[::-1], other, tmp_path, compiled=False)


def test_a_kill_at_any_moment_of_a_save_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    model = new_model(TINY, 0)
    optimizers = train.optimisers(model, TINY)
    count = SimpleNamespace(calls=0, fatal=0)

    def dying(function):
        def step(*args, **kwargs):
            count.calls += 1
            if count.calls == count.fatal:
                raise Killed
            return function(*args, **kwargs)

        return step

    for owner, name in ((torch, "save"), (Path, "open"), (os, "fsync"), (os, "replace")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    saved = 0
    train.save_checkpoint(model, optimizers, TINY, "text", train.Progress(step=saved), tmp_path)
    # Die at the first call of a save, then at the second of the next, ... until one gets through.
    for fatal in range(1, 50):
        count.calls, count.fatal = 0, fatal
        try:
            train.save_checkpoint(model, optimizers, TINY, "text", train.Progress(step=saved + 1), tmp_path)
            break
        except Killed:
            found = train.load_checkpoint(model, optimizers, TINY, "text", tmp_path)
            assert found.step in (saved, saved + 1)
            saved = found.step
    else:
        raise AssertionError("a save has more calls than expected")
    assert fatal > 3
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    model = new_model(TINY, 0)
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(AdaptError, match="the loss is nan at step 0"):
        train.train(model, stream(), TINY, tmp_path, compiled=False)
    assert not list(tmp_path.iterdir())


def test_a_step_takes_its_windows_by_number_and_an_epoch_takes_each_once() -> None:
    windows = corpus.Windows(np.arange(1000, dtype=np.int32), length=10, batch=7, seed=3)
    assert windows.per_epoch == 98
    epoch = np.concatenate([windows[step] for step in range(14)])
    assert (np.diff(epoch) == 1).all()
    assert len(set(epoch[:, 0].tolist())) == 98
    again = corpus.Windows(np.arange(1000, dtype=np.int32), length=10, batch=7, seed=3)
    assert (again[5] == windows[5]).all()
    assert not (windows[14] == windows[0]).all()


def test_too_little_text_is_named() -> None:
    with pytest.raises(AdaptError, match="has 50 tokens"):
        corpus.Windows(np.arange(50, dtype=np.int32), length=10, batch=7, seed=3)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7, 8, 16, 33])
def test_the_bands_share_out_the_layers_and_the_dropout_rises(layers: int) -> None:
    bands = exit_bands(layers)
    assert len(bands) == 3
    assert sorted(n for band in bands for n in band) == list(range(1, layers))
    rates = [dropout_rate(n, layers, 0.1) for n in range(1, layers + 1)]
    assert rates[0] == 0
    assert rates == sorted(rates)
    assert layers == 1 or rates[-1] == pytest.approx(0.1)
    # LayerSkip's formula: exp(l ln2 / (L-1)) - 1, l from 0
    assert rates == pytest.approx([0.1 * (2 ** (n / max(layers - 1, 1)) - 1) for n in range(layers)])


def test_dropped_layers_pass_their_input_on() -> None:
    forward = Forward(new_model(TINY, 0), compiled=False)
    states = forward.hidden_states(torch.arange(10)[None], skipped={2, 4})
    assert torch.equal(states[0], states[1]) and torch.equal(states[2], states[3])
    assert not torch.equal(states[1], states[2])


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_a_step_teaches_early_layers_through_the_shared_head(progress: float) -> None:
    model = new_model(TINY, 0)
    batch = torch.from_numpy(corpus.Windows(stream(), 32, 4, 0)[0])
    draw = torch.Generator().manual_seed(1)
    loss, last = step_loss(Forward(model, compiled=False), batch, TINY, progress, draw)
    assert loss.item() > last
    loss.backward()
    assert all(p.grad is not None for p in model.model.layers[0].parameters())


def llama(tied: bool) -> LlamaForCausalLM:
    """A Llama with grouped keys and a head size that is not hidden / heads."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=64,
            tie_word_embeddings=tied,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        )
    )


@pytest.mark.parametrize("tied", [True, False])
def test_the_training_forward_is_transformers_own(tied: bool) -> None:
    model = llama(tied)
    tokens = torch.randint(320, (2, 40))
    with torch.no_grad():
        ours = Forward(model, compiled=False).hidden_states(tokens)
        theirs = model(tokens, output_hidden_states=True).hidden_states
    for mine, reference in zip(ours[:-1], theirs[1:-1], strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.model.norm(ours[-1]), theirs[-1], rtol=1e-4, atol=1e-5)


def test_a_llama_with_other_weights_than_its_config_says_is_refused(tmp_path: Path) -> None:
    for tied, folder, complaint in ((True, "more", "lacks lm_head.weight"), (False, "less", "lacks model.layers.1")):
        llama(tied).save_pretrained(tmp_path / folder)
        file = tmp_path / folder / "config.json"
        config = json.loads(file.read_text()) | {"tie_word_embeddings": False}
        file.write_text(json.dumps(config))
        if not tied:
            weights = load_file(tmp_path / folder / "model.safetensors")
            del weights["model.layers.1.mlp.up_proj.weight"]
            save_file(weights, tmp_path / folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(AdaptError, match=complaint):
            open_llama(str(tmp_path / folder), 16, torch.float32)


@pytest.mark.parametrize("tied", [True, False])
def test_an_existing_llama_is_gone_on_from(tied: bool, finished: Path, text: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    llama(tied).to(torch.bfloat16).save_pretrained(base)
    AutoTokenizer.from_pretrained(finished).save_pretrained(base)
    config = AdaptConfig.defaults(str(base), context=32, batch=4, steps=5)
    assert (config.matrix_lr, config.other_lr) == (CONTINUING["matrix_lr"], CONTINUING["other_lr"])
    report = adapt(text, tmp_path / "out", config, compiled=False)
    assert len(report.on_text) == 3
    adapted = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert adapted.dtype == torch.bfloat16
    assert adapted.config.tie_word_embeddings == tied
    assert adapted.config.num_key_value_heads == 2
    assert not torch.equal(weights(adapted), weights(llama(tied).to(torch.bfloat16)))
    assert f"base_model: {base}" in (tmp_path / "out" / "README.md").read_text()


def test_what_is_exported_opens_and_generates(finished: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(finished), AutoTokenizer.from_pretrained(finished)
    assert model.dtype == torch.float16
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    text = "def f(a):\n    return [a  +1, 'é']\n\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    out = model.float().generate(**tokenizer("def", return_tensors="pt"), max_new_tokens=5, do_sample=False)
    assert out.shape[1] > 1
    assert {p.name for p in finished.iterdir() if p.is_dir()} == {"tokenizer"}
    card = (finished / "README.md").read_text()
    assert "nats per token" in card and "| 4 | 100.0% | 100.0% |" in card


def test_a_finished_training_is_exported_again_without_a_step(finished: Path, text: Path) -> None:
    before = (finished / "model.safetensors").read_bytes()
    (finished / "config.json").unlink()
    steps: list[int] = []
    report = adapt(text, finished, TINY, lambda p: steps.append(p.step), compiled=False)
    assert steps == []
    assert report.progress.step == TINY.steps
    assert (finished / "model.safetensors").read_bytes() == before
    assert (finished / "config.json").exists()


def test_the_default_model_is_small_enough_to_ship() -> None:
    model = new_model(AdaptConfig(), 0)
    assert model.num_parameters() * 2 < 15.5e6  # bytes in fp16; the rest is the tokenizer


def test_the_report_counts_agreement_with_the_last_layer() -> None:
    model = new_model(TINY, 0)
    model.model.layers[1].mlp.down_proj.weight.data.normal_()  # layer 2 says something else than layer 1
    for layer in model.model.layers[2:]:  # they add nothing: layers 2, 3 and 4 say the same
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    report = measure(model, stream(), TINY.context, train.Progress())
    for shares in (report.on_text, report.on_output):
        assert shares[1:] == (1.0, 1.0, 1.0)
        assert 0 <= shares[0] < 1
    window = torch.from_numpy(stream()[None, :500].astype(np.int64))
    assert report.held_out_loss == pytest.approx(model(window, labels=window).loss.item(), abs=0.2)


def test_a_greedy_continuation_counts_up_to_its_end_of_text() -> None:
    model = new_model(TINY, end_of_text=0)
    model.lm_head.weight.data.zero_()  # every token is as likely: the first is taken, the end of text
    assert measure(model, stream(), TINY.context, train.Progress()).output_positions == 16  # one of each continuation
    model.generation_config.eos_token_id = None
    assert measure(model, stream(), TINY.context, train.Progress()).output_positions == 16 * (TINY.context // 2)


def test_what_cannot_be_gone_on_from_is_named(finished: Path, text: Path, tmp_path: Path) -> None:
    def refused(model: Path, config: AdaptConfig = TINY) -> str:
        with pytest.raises(AdaptError) as error:
            adapt(text, tmp_path / "out", dataclasses.replace(config, base=str(model)), compiled=False)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        return str(error.value)

    tokenizer = AutoTokenizer.from_pretrained(finished)
    gpt2, biased = tmp_path / "gpt2", tmp_path / "biased"
    GPT2LMHeadModel(GPT2Config(vocab_size=320, n_embd=8, n_layer=1, n_head=1, n_positions=64)).save_pretrained(gpt2)
    LlamaForCausalLM(changed(llama(True).config, attention_bias=True)).save_pretrained(biased)
    for folder in (gpt2, biased):
        tokenizer.save_pretrained(folder)
    assert "is of type gpt2; only Llama" in refused(gpt2)
    assert "attention_bias = True" in refused(biased)
    assert "cannot open the model" in refused(tmp_path / "missing")
    assert "knows 32 positions" in refused(finished, dataclasses.replace(TINY, context=33))
    with pytest.raises(AdaptError, match="is the model to go on from"):
        adapt(text, finished, dataclasses.replace(TINY, base=str(finished)))


def changed(config: LlamaConfig, **changes: object) -> LlamaConfig:
    return LlamaConfig(**(config.to_dict() | changes))


def test_text_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "empty").mkdir()
    (tmp_path / "short").write_text("a short text. " * 20)
    for name, complaint in (
        ("missing", "there is no text at"),
        ("binary", "is not UTF-8 text"),
        ("empty", "there is no text to train on"),
        ("short", "give more text"),
    ):
        with pytest.raises(AdaptError, match=complaint):
            adapt(tmp_path / name, tmp_path / f"out-{name}", TINY, compiled=False)


def test_the_tokens_of_another_text_are_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other text" * 500)
    with pytest.raises(AdaptError, match=r"another training \(different: the text\)"):
        adapt(tmp_path / "other", finished, TINY, compiled=False)


def test_files_are_split_by_name_and_a_few_are_cut(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    (tmp_path / "picture.png").write_bytes(b"\xff\xd8\xff")
    documents = corpus.documents(tmp_path)
    assert len(documents) == 100
    assert 0 < sum(held_out for _, held_out in documents) < 20


@pytest.mark.parametrize(
    ("given", "complaint"),
    [({"hidden": 100}, "hidden is 100"), ({"heads": 5}, "for each of the 5 heads")],
)
def test_settings_that_do_not_fit_are_named(given: dict, complaint: str) -> None:
    with pytest.raises(AdaptError, match=complaint):
        AdaptConfig(**given)


def test_the_rate_warms_up_stays_and_falls() -> None:
    rate = AdaptConfig().learning_rate
    assert rate(0.005) == pytest.approx(0.5)
    assert rate(0.3) == rate(0.6) == 1
    assert rate(1.0) == pytest.approx(0.02)
