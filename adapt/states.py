"""The hidden states of a frozen model over its training text: computed once, kept in files, read as they are needed.

A file holds a batch of documents: `tokens`, `document` (a number for each), `taught` (whether what follows a position
is to be learned: not a held-out prompt's tokens, nor what is behind a document's end), all (n,); `last` (n, hidden),
the normed output of the last layer, and `layer.E` (n, hidden) of every exit.
"""

import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from lede.adapt.config import ExitsConfig
from lede.adapt.errors import AdaptError
from lede.adapt.forward import head_size
from lede.adapt.model import write
from lede.adapt.train import check_same

BATCH = 256  # texts that are written at a time at most, into one file
DOCUMENTS = 64  # in a file of given texts
HELD_OUT = 64  # prompts that agreement is measured on
CACHE = 4e9  # bytes of keys and values at a time
PADDED = 4096  # tokens in one pass over documents

Ids = list[int]


@dataclass(frozen=True)
class Text:
    """Token ids: prompts to go on from, texts to learn from as they are, and prompts that training never sees."""

    prompts: list[Ids]
    texts: list[Ids]
    held_out: list[Ids]


class States:
    """Files of hidden states as if they were one."""

    def __init__(self, files: list[dict[str, Tensor]]):
        self.files = files
        self.ends = list(itertools.accumulate(len(file["tokens"]) for file in files))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start…stop-1 of a tensor."""
        bounds = zip(self.files, [0, *self.ends], self.ends, strict=False)
        return torch.cat([f[name][max(start - lo, 0) : stop - lo] for f, lo, hi in bounds if lo < stop and start < hi])

    def whole(self, name: str) -> Tensor:
        """A tensor of all files."""
        return torch.cat([file[name] for file in self.files])

    def next_tokens(self) -> Tensor:
        """The tokens that are to be learned: what follows the positions that are `taught`."""
        return self.whole("tokens")[1:][self.whole("taught")[:-1]]


@dataclass(frozen=True)
class Kept:
    """What training works on. `own` tokens of it are the model's own; `cut`: the disk limit left some out."""

    train: States
    held_out: States
    own: int
    cut: bool


def keep_states(
    model: LlamaForCausalLM,
    text: Text,
    config: ExitsConfig,
    ends: set[int],
    asked: dict[str, Any],
    folder: Path,
    on_progress: Callable[[float, str], None] = lambda share, note: None,
) -> Kept:
    """Compute what is not yet in `folder`: of the model's answers to held-out prompts and to prompts, then of texts.

    Files are numbered and each is whole, so a kill loses the one being made. `on_progress` gets the share that is done,
    and a word on it. Raises AdaptError where the folder was made of other than what is `asked`, or for less than a
    window.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun, new = folder / "asked.json", folder / "asked.new"
    if begun.exists():
        check_same(folder, json.loads(begun.read_text()), asked)
    new.write_text(json.dumps(asked))
    new.replace(begun)
    row = model.config.hidden_size * model.lm_head.weight.element_size() * (len(config.exits) + 1) + 9
    planned = sum(map(len, text.texts)) + config.own_text + config.answer * min(len(text.held_out), HELD_OUT)
    files: dict[str, list[dict[str, Tensor]]] = {"held-out": [], "own": [], "text": []}
    own = used = done = documents = 0
    cut = False

    def wrote(count: int) -> None:
        nonlocal done
        done += count
        on_progress(min(done / planned, 1), f"{done:,} tokens")

    for number, batch in enumerate(_batches(model, text, config)):
        if batch.kind == "own" and own >= config.own_text:
            continue
        path, longest = folder / f"{number:05d}.safetensors", 0 if batch.kind == "text" else config.answer
        if batch.kind != "held-out" and used + row * sum(len(ids) + longest for ids in batch.texts) > config.disk * 1e9:
            cut = True
            break
        if made := not path.exists():
            if longest:
                draw = None if batch.seed is None else torch.Generator(model.device).manual_seed(batch.seed)
                answers, states = write(model, batch.texts, longest, ends, wrote, config.exits, draw)
                whole = [ids + answer for ids, answer in zip(batch.texts, answers, strict=True)]
            else:
                whole, states = batch.texts, _read(model, batch.texts, config.exits)
            starts = [len(ids) if batch.answers_only else 1 for ids in batch.texts]
            save_file(_file(whole, states, starts, documents), path.with_suffix(".new"))
            os.replace(path.with_suffix(".new"), path)
        documents += len(batch.texts)
        files[batch.kind].append(load_file(path))
        used += path.stat().st_size
        written = len(files[batch.kind][-1]["tokens"]) - sum(map(len, batch.texts))
        own += written if batch.kind == "own" else 0
        wrote(0 if made and longest else written or sum(map(len, batch.texts)))
    train = States(files["own"] + files["text"])
    if len(train) < config.context:
        raise AdaptError(
            f"there are hidden states of {len(train)} tokens, and one window takes {config.context}: give more text, "
            "more --own-text or more --disk"
        )
    return Kept(train, States(files["held-out"]), own, cut)


@dataclass(frozen=True)
class Batch:
    """The texts of a file: "held-out" or "own", prompts to be gone on from, or "text"."""

    kind: str
    texts: list[Ids]
    seed: int | None = None  # of what is drawn as answers; None: the most likely tokens
    answers_only: bool = False  # whether only the answers are to be learned, and not the prompts


def _batches(model: LlamaForCausalLM, text: Text, config: ExitsConfig) -> Iterator[Batch]:
    """All documents, a file's at a time; prompts of like lengths together, their batches in random order.

    Prompts come again and again, the first time for the greedy answer, then for one drawn from the model.
    """
    sizes = model.config
    keys = sizes.num_key_value_heads or sizes.num_attention_heads
    numbers = 2 * keys * head_size(model) * sizes.num_hidden_layers  # in a token's keys and values
    longest = max(map(len, text.prompts + text.held_out)) + config.answer
    rows = max(1, min(BATCH, int(CACHE / (numbers * model.lm_head.weight.element_size() * longest))))
    draw = random.Random(config.seed)
    held_out = draw.sample(text.held_out, min(len(text.held_out), HELD_OUT))
    yield from (Batch("held-out", batch, None, True) for batch in _split(sorted(held_out, key=len), rows))
    asked = 0
    for again in itertools.count():
        for some in _split(draw.sample(text.prompts, len(text.prompts)), 8 * rows):
            batches = _split(sorted(some, key=len), rows)
            for batch in draw.sample(batches, len(batches)):
                if asked >= config.own_text:
                    break
                asked += len(batch)  # each answer has one token at least
                yield Batch("own", batch, draw.getrandbits(32) if again else None, again > 0)
        if asked >= config.own_text:
            break
    yield from (Batch("text", batch) for batch in _split(draw.sample(text.texts, len(text.texts)), DOCUMENTS))


def _split(items: list[Ids], size: int) -> list[list[Ids]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


@torch.inference_mode()
def _read(model: LlamaForCausalLM, texts: list[Ids], exits: tuple[int, ...]) -> list[dict[str, Tensor]]:
    """The states of each text, (length, hidden)."""
    states: list[dict[str, Tensor]] = []
    for some in _split(texts, max(1, PADDED // max(map(len, texts)))):
        width = max(map(len, some))
        padded = torch.tensor([ids + [0] * (width - len(ids)) for ids in some], device=model.device)
        outputs = model.model(padded, output_hidden_states=True, use_cache=False).hidden_states
        kept = {f"layer.{layer}": outputs[layer] for layer in exits} | {"last": outputs[-1]}
        states += [{name: x[row, : len(ids)].cpu() for name, x in kept.items()} for row, ids in enumerate(some)]
    return states


def _file(texts: list[Ids], states: list[dict[str, Tensor]], starts: list[int], number: int) -> dict[str, Tensor]:
    """What a file holds of texts of which the tokens from `starts` on are to be learned; numbered from `number`."""
    numbered = list(zip(texts, starts, strict=True))
    return {name: torch.cat([part[name] for part in states]) for name in states[0]} | {
        "tokens": torch.tensor([token for ids in texts for token in ids], dtype=torch.int32),
        "document": torch.tensor([n for n, ids in enumerate(texts, number) for _ in ids], dtype=torch.int32),
        "taught": torch.tensor([start <= i + 1 < len(ids) for ids, start in numbered for i in range(len(ids))]),
    }
