"""The training loop: Muon and AdamW over the windows of a token stream, with checkpoints that a kill cannot break."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaForCausalLM

from lede.adapt import corpus
from lede.adapt.config import AdaptConfig, Schedule
from lede.adapt.errors import AdaptError
from lede.adapt.forward import Forward, step_loss
from lede.ground import fingerprint

Optimizers = list[torch.optim.Optimizer]
CHECKPOINT = "checkpoint.pt"


@dataclass
class Progress:
    """Where a training stands; what a progress bar shows."""

    step: int = 0
    seconds: float = 0.0  # spent training, over all sessions
    tokens: int = 0
    loss: float = float("nan")  # cross-entropy, nats per token, decayed mean over about 50 steps

    def share(self, config: Schedule) -> float:
        """How much of the training is done, 0…1."""
        if config.minutes is not None:
            return min(self.seconds / (config.minutes * 60), 1.0)
        return min(self.step / config.steps, 1.0)

    def __str__(self) -> str:
        return f"step {self.step:,}  loss {self.loss:.3f}  {self.tokens / max(self.seconds, 1e-9):.0f} tokens/s"


def optimisers(model: nn.Module, config: Schedule) -> Optimizers:
    """Muon for the weight matrices of a whole model's layers, AdamW for everything else."""
    inner = [name for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    matrices, others = ([p for n, p in model.named_parameters() if (n in inner) == side] for side in (True, False))
    adamw = torch.optim.AdamW(others, lr=config.other_lr, betas=(0.9, 0.95), weight_decay=0.0)
    if not matrices:
        return [adamw]
    assert isinstance(config, AdaptConfig)
    return [torch.optim.Muon(matrices, lr=config.matrix_lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), adamw]


def train(
    model: LlamaForCausalLM,
    stream: np.ndarray,
    config: AdaptConfig,
    out: Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    compiled: bool | None = None,
) -> Progress:
    """Train `model` in place on the token `stream` by LayerSkip's recipe; see `optimise`.

    `compiled` says whether to use `torch.compile` (None: where it can be). Raises AdaptError where the text is too
    short.
    """
    windows = corpus.Windows(stream, config.context, config.batch, config.seed)
    forward = Forward(model, compiled)

    def step(number: int, share: float) -> float:
        draw = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
        batch = torch.from_numpy(windows[number]).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            loss, last = step_loss(forward, batch, config, share, draw)
        loss.backward()
        return last

    return optimise(model, step, config, fingerprint(stream.tobytes()), out, on_progress)


def optimise(
    model: nn.Module,
    step: Callable[[int, float], float],
    config: Schedule,
    text: str,
    out: Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train `model` in place; goes on from `out/checkpoint.pt` where there is one.

    `step` takes the number of a step and the share of the training that is done, adds to the gradients and returns a
    loss to show. `text` names what it is trained on. Raises AdaptError where the checkpoint is of another training
    (other text or other settings), or the loss stops being a number.
    """
    optimizers = optimisers(model, config)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    progress = load_checkpoint(model, optimizers, config, text, out)
    model.train()
    resumed_at = progress.step
    saved = time.monotonic()
    while (share := progress.share(config)) < 1:
        began = time.monotonic()
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * config.learning_rate(share)
        loss = step(progress.step, share)
        if not math.isfinite(loss):
            raise AdaptError(f"the loss is {loss} at step {progress.step}: train again with lower learning rates")
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.tokens += config.batch * config.context
        progress.seconds += time.monotonic() - began
        weight = max(0.02, 1 / progress.step)
        progress.loss = loss if progress.step == 1 else progress.loss + weight * (loss - progress.loss)
        on_progress(progress)
        if time.monotonic() - saved > config.checkpoint_every:
            save_checkpoint(model, optimizers, config, text, progress, out)
            saved = time.monotonic()
    if progress.step > resumed_at:
        save_checkpoint(model, optimizers, config, text, progress, out)
    model.eval()
    return progress


def save_checkpoint(
    model: nn.Module, optimizers: Optimizers, config: Schedule, text: str, progress: Progress, out: Path
) -> None:
    """Write the whole state beside the old one, then swap: a kill at any moment leaves one of them whole."""
    out.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    state |= {"settings": asdict(config) | {"the text": text}, "progress": asdict(progress)}
    with (out / f"{CHECKPOINT}.new").open("wb") as file:
        torch.save(state, file)
        os.fsync(file.fileno())
    os.replace(file.name, out / CHECKPOINT)


def load_checkpoint(model: nn.Module, optimizers: Optimizers, config: Schedule, text: str, out: Path) -> Progress:
    """Put the checkpoint of `out` into model and optimisers; a fresh Progress where there is none.

    Raises AdaptError where it is of another training.
    """
    if not (out / CHECKPOINT).exists():
        return Progress()
    device = next(model.parameters()).device
    state = torch.load(out / CHECKPOINT, map_location=device, weights_only=True)
    wanted = asdict(config) | {"the text": text}
    del wanted["checkpoint_every"]  # may differ from one session to the next
    check_same(out, state["settings"], wanted)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(**state["progress"])


def check_same(folder: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise AdaptError unless what was `wanted` when `folder` was begun is what is wanted now."""
    if differing := [name for name in wanted if json.dumps(there.get(name)) != json.dumps(wanted[name])]:
        raise AdaptError(
            f"{folder} is of another training (different: {', '.join(differing)}): give the same arguments to go on "
            "with it, or another --out"
        )
