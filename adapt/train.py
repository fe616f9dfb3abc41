"""`lede adapt`: train a small Llama whose early layers can draft, or teach an existing one to.

A training folder holds `tokens.npy` (the two token streams), `checkpoint/` (weights, optimisers and progress, replaced
as a whole every few minutes) and, once finished, the model itself: a `transformers` checkpoint with its model card.
"""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from adapt import corpus
from adapt.config import AdaptConfig
from adapt.forward import Forward
from adapt.recipe import step_loss

HELD_OUT_WINDOWS = 32  # of one context each, for the held-out loss


@dataclass
class Progress:
    """Where a training stands; what a progress bar shows."""

    step: int = 0
    seconds: float = 0.0  # spent training, over all sessions
    tokens: int = 0
    loss: float = float("nan")  # the last layer's cross-entropy, nats a token, decayed mean over about 50 steps

    def share(self, config: AdaptConfig) -> float:
        """How much of the training is done, 0…1."""
        if config.minutes is not None:
            return min(self.seconds / (config.minutes * 60), 1.0)
        return min(self.step / config.steps, 1.0)


def new_model(config: AdaptConfig, end_of_text: int) -> LlamaForCausalLM:
    """A freshly initialised Llama with tied embeddings, of the sizes in `config`."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=end_of_text,
            eos_token_id=end_of_text,
        )
    )


def optimisers(model: nn.Module, config: AdaptConfig) -> list[torch.optim.Optimizer]:
    """Muon for the layers' weight matrices, AdamW for everything else."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and ".layers." in name else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=config.matrix_lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=config.other_lr, betas=(0.9, 0.95), weight_decay=0.0)]


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    stream: np.ndarray,
    config: AdaptConfig,
    out: Path,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train `model` in place on the token `stream`; goes on from `out/checkpoint` where there is one.

    Raises ValueError where the checkpoint is of another training (other text or other settings).
    """
    device = model.device
    fingerprint = corpus.fingerprint(stream)
    optimizers = optimisers(model, config)
    progress = load_checkpoint(model, optimizers, config, fingerprint, out)
    windows = corpus.Windows(stream, config.context, config.batch, config.seed)
    forward = Forward(model, compiled=can_compile())
    model.train()
    saved = time.monotonic()
    while (share := progress.share(config)) < 1:
        began = time.monotonic()
        for optimizer, rate in zip(optimizers, (config.matrix_lr, config.other_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * config.learning_rate(share)
        draw = torch.Generator().manual_seed(config.seed * 1_000_003 + progress.step)
        batch = torch.from_numpy(windows[progress.step]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss, last = step_loss(forward, batch, config, share, draw)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.tokens += batch[:, 1:].numel()
        progress.seconds += time.monotonic() - began
        weight = max(0.02, 1 / progress.step)
        progress.loss = last if progress.step == 1 else progress.loss + weight * (last - progress.loss)
        report(progress)
        if time.monotonic() - saved > config.checkpoint_every:
            save_checkpoint(model, optimizers, config, fingerprint, progress, out)
            saved = time.monotonic()
    save_checkpoint(model, optimizers, config, fingerprint, progress, out)
    model.eval()
    return progress


def can_compile() -> bool:
    """Whether `torch.compile` has what it needs here: a C++ compiler (Triton, on a GPU, brings its own)."""
    return torch.cuda.is_available() or shutil.which(os.environ.get("CXX", "g++")) is not None


def held_out_loss(model: LlamaForCausalLM, stream: np.ndarray, context: int) -> float:
    """Cross-entropy of the last layer, nats a token, over evenly spaced windows of the held-out stream."""
    starts = np.linspace(0, len(stream) - context - 1, HELD_OUT_WINDOWS).astype(int)
    losses = []
    with torch.no_grad():
        for start in starts:
            window = torch.from_numpy(stream[start : start + context + 1].astype(np.int64)).to(model.device)[None]
            losses.append(model(window[:, :-1]).logits[0].float().log_softmax(-1).gather(1, window[0, 1:, None]).mean())
    return -float(torch.stack(losses).mean())


def save_checkpoint(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    config: AdaptConfig,
    fingerprint: str,
    progress: Progress,
    out: Path,
) -> None:
    """Write the whole state beside the old one, then swap: a kill leaves one of them whole."""
    new, old = out / "checkpoint.new", out / "checkpoint"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    torch.save(
        {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}, new / "state.pt"
    )
    described = {
        "config": dataclasses.asdict(config), "stream": fingerprint, "progress": dataclasses.asdict(progress)
    }  # fmt: skip
    (new / "progress.json").write_text(json.dumps(described, indent=2))
    if old.exists():
        old.rename(out / "checkpoint.old")
    new.rename(old)
    shutil.rmtree(out / "checkpoint.old", ignore_errors=True)


def load_checkpoint(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], config: AdaptConfig, fingerprint: str, out: Path
) -> Progress:
    """Put the newest whole checkpoint of `out` into model and optimisers; a fresh Progress where there is none."""
    folder = next((f for f in (out / "checkpoint", out / "checkpoint.old") if (f / "progress.json").exists()), None)
    if folder is None:
        return Progress()
    described = json.loads((folder / "progress.json").read_text())
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    free = {"checkpoint_every"}  # may differ from one session to the next
    differing = [k for k in wanted if k not in free and described["config"].get(k) != wanted[k]]
    if described["stream"] != fingerprint:
        differing.append("the text")
    if differing:
        raise ValueError(
            f"{folder} is of another training (different: {', '.join(differing)}): give the same arguments to go on "
            "with it, or another --out"
        )
    state = torch.load(folder / "state.pt", map_location=next(model.parameters()).device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**described["progress"])
