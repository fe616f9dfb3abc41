"""Text to train on, as one stream of token ids split into training and held-out documents."""

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lede.adapt.errors import AdaptError
from lede.collect import stdlib
from lede.collect.stdlib import HELD_OUT_SHARE
from lede.replay.split import group_of, split_of, stable_hash

END_OF_TEXT = "<|endoftext|>"


def documents(path: Path | None) -> list[tuple[str, bool]]:
    """Texts, and whether training must not see them: files below a folder, a lone file, or (None) the interpreter's own
    standard library (see `collect/stdlib.py`).

    Files are split by a hash of their names; nothing is held out of a lone one here. Raises AdaptError where there is
    no such path, or a lone file is no UTF-8 text; other files that are none are left out.
    """
    if path is None:
        texts = [(stdlib.read(module), module.held_out) for module in stdlib.modules()]
        return [(text, held_out) for text, held_out in texts if text is not None]
    if not path.exists():
        raise AdaptError(f"there is no text at {path}")
    found = []
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        try:
            held_out = file != path and stable_hash(str(file.relative_to(path))) % HELD_OUT_SHARE == 0
            found.append((file.read_text(encoding="utf-8"), held_out))
        except UnicodeDecodeError:
            if file == path:
                raise AdaptError(f"{path} is not UTF-8 text") from None
    return found


def prompts(path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], bool]]:
    """The prompts of a JSON-lines file as token ids, and whether training must not see them, by their groups' hash.

    A row has `prompt`, a text, or `messages` ({role, content}, up to the first answer) or `turns` (the first is taken),
    which go through the tokenizer's chat template, where it has one. Raises AdaptError that names a line with none.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            messages = row.get("messages") or [{"role": "user", "content": text} for text in row.get("turns", ())[:1]]
            messages = list(itertools.takewhile(lambda message: message["role"] != "assistant", messages))
            content = row.get("prompt") or "\n\n".join(message["content"] for message in messages)
            if not isinstance(content, str) or not content.strip():
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise AdaptError(f"{path}, line {number}: give an object with `prompt`, `messages` or `turns`") from None
        group = str(row.get("group", row.get("conversation")) or group_of(content))
        chat = bool(messages and "prompt" not in row and tokenizer.chat_template)
        written: Any = content
        if chat:
            written = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # verbose: no word about the context's length
        yield tokenizer.encode(written, add_special_tokens=not chat, verbose=False), split_of(group) != "train"


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocabulary` tokens: any text can be written with it, and every text comes back unchanged."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    )


def token_stream(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """All texts in one row of int32 ids, each followed by the end-of-text token."""
    # verbose: no word about the context's length
    rows = [[*tokenizer.encode(t, add_special_tokens=False, verbose=False), tokenizer.eos_token_id] for t in texts]
    return np.fromiter(itertools.chain(*rows), np.int32)


class Windows:
    """Windows of `length` + 1 tokens, each token used once an epoch, in an order drawn from (seed, epoch).

    Which windows step `n` takes depends on `n` alone, so that a resumed training goes on as if never stopped.
    Raises AdaptError where the stream is too short for one step.
    """

    def __init__(self, stream: np.ndarray, length: int, batch: int, seed: int):
        self.stream, self.length, self.batch, self.seed = stream, length, batch, seed
        self.per_epoch = (len(stream) - 1) // length - 1  # one less: every epoch starts at another offset
        if self.per_epoch < batch:
            raise AdaptError(
                f"the text to train on has {len(stream)} tokens; one step of {batch} × {length} needs more than "
                f"{(batch + 1) * length}: give more text, or a smaller --batch or --context"
            )

    def __getitem__(self, step: int) -> np.ndarray:
        """(batch, length + 1) int64: the windows of one step."""
        numbers = np.arange(step * self.batch, (step + 1) * self.batch)
        return np.stack([self._window(*divmod(int(n), self.per_epoch)) for n in numbers])

    def _window(self, epoch: int, index: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        offset = int(rng.integers(self.length))
        start = offset + int(rng.permutation(self.per_epoch)[index]) * self.length
        return self.stream[start : start + self.length + 1].astype(np.int64)
