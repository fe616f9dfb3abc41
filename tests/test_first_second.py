"""The first second: what a command imports before it says what is wrong, and before its first token."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from lede.decode.generate import generate
from lede.decode.load import load_model
from lede.decode.rules import LayerSkip
from lede.decode.sampling import Settings
from lede.decode.tokenizer import Tokenizer, folder_tokenizer
from lede.paths import default_model_path
from tests.models import byte_llama, byte_tokenizer, library_text, llama

HEAVY = ("torch", "transformers", "d3rlpy", "polars", "matplotlib")
TEXTS = ("def mean(values):\n    return", "  two  spaces, ünïcode 漢字 🙂\t\n\n", "<end><|eot|> a<|endoftext|> b", "")


def fresh_process(script: str, *arguments: str, folder: Path) -> Any:
    """What a script prints as JSON, in a process of its own."""
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", "")}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


COMMANDS = f"""
import json, sys
from typer.testing import CliRunner
import lede
from lede.cli import app
seen = []
for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, arguments)
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    seen.append([done.exit_code, done.output, loaded])
print()
print(json.dumps(seen))
"""

WRONG: dict[str, tuple[str, ...]] = {
    "there is no model folder ./nowhere": ("generate", "-p", "x", "--model", "./nowhere"),
    "config.json: there is no such file": ("generate", "-p", "x", "--model", "empty"),
    "'gpt2' model: only Llama": ("generate", "-p", "x", "--model", "gpt2"),
    "there is no model.safetensors in it": ("generate", "-p", "x", "--model", "weightless"),
    "its index names two.safetensors, which is missing": ("generate", "-p", "x", "--model", "halved"),
    "of the kind 'spiral'": ("calibrate", "--model", "spiral"),
    "no-policy": ("generate", "-p", "x", "--policy", "no-policy"),
    "unknown dtype 'int3'": ("generate", "-p", "x", "--dtype", "int3"),
    "the device 'toaster' is not supported": ("calibrate", "--device", "toaster"),
    "there are no exit heads in no-heads": ("generate", "-p", "x", "--exits", "no-heads"),
    "no-task": ("collect", "--task", "no-task"),
    "no-prompts.jsonl": ("collect", "--prompts", "no-prompts.jsonl"),
    "no-prompts": ("bench", "--prompts", "no-prompts"),
    "no method fastest": ("bench", "--methods", "fastest"),
    "there is no model folder ./none": ("bench", "--model", "./none"),
    "./never": ("adapt", "--model", "./never", "--out", "new"),
    "--text no-text": ("adapt", "--text", "no-text", "--out", "new"),
    "--exits 4,99": ("adapt", "--exits", "4,99", "--out", "new"),
    "--own-text: not without --exits": ("adapt", "--own-text", "9", "--out", "new"),
    "--draft-vocab, --disk: not without --exits": ("adapt", "--draft-vocab", "9", "--disk", "1", "--out", "new"),
    "--matrix-lr: not with --exits": ("adapt", "--exits", "4", "--matrix-lr", "0.1", "--out", "new"),
    "no-data": ("inspect", "no-data"),
    "no-rows": ("evaluate", "--dataset", "no-rows"),
    "no-log": ("learn", "--dataset", "no-log"),
}


def test_what_is_wrong_is_said_before_anything_slow_is_imported(tmp_path):
    small = {"model_type": "llama", "num_hidden_layers": 2}
    weight_map = {"model.norm.weight": "two.safetensors"}
    for name, files in {
        "empty": {},
        "gpt2": {"config.json": {"model_type": "gpt2"}},
        "weightless": {"config.json": small},
        "halved": {"config.json": small, "model.safetensors.index.json": {"weight_map": weight_map}},
        "spiral": {"config.json": small | {"rope_scaling": {"type": "spiral"}}},
    }.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(json.dumps(content))
    helps = [["--help"], ["learn", "--help"], ["adapt", "--help"], ["collect", "--help"]]
    commands = [*helps, *WRONG.values()]
    seen = fresh_process(COMMANDS, json.dumps(commands), folder=tmp_path)
    outcomes = seen[len(helps) :]
    assert all((code, loaded) == (0, []) for code, _, loaded in seen[: len(helps)])
    for message, (code, output, loaded) in zip(WRONG, outcomes, strict=True):
        assert code == 2, output
        assert message in " ".join(output.split()), output
        assert "Traceback" not in output
        assert loaded == [], message


def test_a_first_token_needs_no_library_but_torch(tmp_path):
    commands = [["generate", "-p", "def f(", "--max-new-tokens", "4", "--threads", "1", "--json"]]
    ((code, output, loaded),) = fresh_process(COMMANDS, json.dumps(commands), folder=tmp_path)
    assert code == 0, output
    assert loaded == ["torch"]


def test_sampling_as_people_do_needs_none_either(tmp_path):
    script = """
import json, sys, lede
model = lede.load_model("lede-tiny", exits="none")
options = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1}
done = lede.generate(model, "def f(x):", max_new_tokens=4, seed=1, **options)
print(json.dumps([len(done.token_ids), [name for name in sys.modules if name.split(".")[0] == "transformers"]]))
"""
    assert fresh_process(script, folder=tmp_path) == [4, []]


def llama3_like(folder: Path) -> None:
    """A tokenizer as Llama 3's: a beginning of text from the post-processor, special tokens in both files."""
    backend = byte_tokenizer().backend_tokenizer
    backend.add_special_tokens(["<|begin|>", "<|eot|>"])
    begin = backend.token_to_id("<|begin|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[("<|begin|>", begin)]
    )
    backend.enable_truncation(5)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin|>", eos_token="<|eot|>", clean_up_tokenization_spaces=True
    ).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["embedded", "bytes", "llama 3", "added", "own class"])
def test_tokenizers_give_the_library_s_ids_and_text(tmp_path, kind):
    folder = tmp_path
    if kind == "embedded":
        folder = default_model_path()
    elif kind == "llama 3":
        llama3_like(folder)
    else:
        byte_tokenizer().save_pretrained(folder)
        byte_llama().config.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if kind == "added":  # a token that tokenizer.json does not have
        settings["eos_token"] = "<|eot|>"
    if kind == "own class":
        settings |= {"tokenizer_class": "GPT2Tokenizer"}
    if kind in ("added", "own class"):
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, theirs = folder_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert isinstance(ours, Tokenizer) == (kind in ("embedded", "bytes", "llama 3"))
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ours(text)["input_ids"] == ids
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
            assert ours.decode(ids[:7]) == theirs.decode(ids[:7])
    assert ours.bos_token_id == theirs.bos_token_id
    assert (ours.get_vocab(), len(ours)) == (theirs.get_vocab(), len(theirs))
    assert ours.eos_token == theirs.eos_token  # and whatever else it has


def without_prefix(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """As a base model is saved: names without `model.`."""
    from safetensors.torch import save_file

    named = {name.removeprefix("model."): weight.clone() for name, weight in weights.items() if "lm_head" not in name}
    save_file(named, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("form", ["one file", "shards", "bin", "base model"])
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_the_library_s_in_every_form(tmp_path, form, tied):
    library = llama(seed=5, tie_word_embeddings=tied)
    library.save_pretrained(tmp_path, max_shard_size="40KB" if form == "shards" else "1GB")
    if form in ("bin", "base model"):
        (tmp_path / "model.safetensors").unlink()
        weights = library.state_dict()
        if form == "bin":
            torch.save(weights, tmp_path / "pytorch_model.bin")
        elif tied:
            without_prefix(tmp_path, weights)
        else:
            pytest.skip("a base model has no head of its own")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (form == "shards")
    model, again = load_model(tmp_path, "fp32"), AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = library_text(again, (1, 2, 3), max_new_tokens=20)
    assert generate(model, [1, 2, 3], LayerSkip(1, 3), Settings(20)).token_ids == expected


def test_settings_of_old_checkpoints_are_read_from_config_json(tmp_path):
    byte_llama().save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"repetition_penalty": 1.5, "eos_token_id": [7, 9]}))
    model = load_model(tmp_path, "fp32")
    assert model.stop_tokens == {7, 9}
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    assert model.generation_config["repetition_penalty"] == theirs.repetition_penalty == 1.5


def test_the_embedded_tokenizer_file_is_what_is_read():
    backend = Backend.from_file(str(default_model_path() / "tokenizer.json"))
    assert folder_tokenizer(default_model_path())(TEXTS[0])["input_ids"] == backend.encode(TEXTS[0]).ids
