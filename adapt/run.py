"""`lede adapt`: train a small Llama whose early layers can draft, or teach an existing one to.

A training folder holds `tokenizer/` (of a new model), `checkpoint.pt` (weights, optimisers and progress, replaced as a
whole every few minutes) and, once finished, the model itself: a `transformers` checkpoint with its model card. The
first two are then no longer needed; while they are there, the same command measures and exports again.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from lede.adapt.card import model_card
from lede.adapt.config import AdaptConfig
from lede.adapt.corpus import streams
from lede.adapt.errors import AdaptError
from lede.adapt.model import DEVICE, new_model, open_llama
from lede.adapt.report import Report, measure
from lede.adapt.train import Progress, train


def adapt(
    text: Path | None,
    out: Path,
    config: AdaptConfig,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    compiled: bool | None = None,
) -> Report:
    """Train `config.base`, or a new model of its sizes, on `text` (None: CPython's standard library) into `out`.

    Goes on where an earlier call with the same arguments was stopped; one that had finished is exported and measured
    again. On a GPU where there is one. `on_progress` is called after every step, `compiled` is `train`'s.
    Raises AdaptError for what the user can put right, OSError where `out` cannot be written.
    """
    if config.base is not None and Path(config.base).resolve() == out.resolve():
        raise AdaptError(f"{out} is the model to go on from: give another --out, it would be written over")
    prepared = streams(text, config, out)
    dtype = torch.float16
    if config.base is None:
        trained = new_model(config, prepared.tokenizer.eos_token_id)
    else:
        trained, dtype = open_llama(config.base, config.context, torch.float32)
    trained.to(DEVICE)  # type: ignore[arg-type]
    progress = train(trained, prepared.train, config, out, on_progress, compiled)
    for parameter in trained.parameters():  # measure what is stored; `to` would round the rotary table too
        parameter.data = parameter.data.to(dtype).float()
    report = measure(trained, prepared.held_out, config.context, progress)
    sizes = trained.config
    described = (
        f"{trained.num_parameters() / 1e6:,.1f} million parameters, {sizes.num_hidden_layers} layers, hidden size "
        f"{sizes.hidden_size}, vocabulary of {sizes.vocab_size:,}"
    )
    card = model_card(out.resolve().name, described, text, prepared, config, report)
    export(trained.to(dtype=dtype), prepared.tokenizer, card, out)  # type: ignore[call-arg]
    return report


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, card: str, out: Path) -> None:
    """Put weights, configuration, tokenizer and model card into `out`, each file as a whole.

    `config.json` comes last: without it nothing opens the folder, with it everything is there.
    """
    new = out / "export.new"
    shutil.rmtree(new, ignore_errors=True)
    model.save_pretrained(new)
    tokenizer.save_pretrained(new)
    (new / "README.md").write_text(card, encoding="utf-8")
    files = sorted(new.iterdir(), key=lambda path: path.name == "config.json")
    for path in files:
        path.chmod(0o644)  # safetensors leaves its files to their owner alone
        os.replace(path, out / path.name)
    new.rmdir()
