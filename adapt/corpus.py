"""Text to train on, as one stream of token ids split into training and held-out documents."""

import itertools
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lede.adapt.config import AdaptConfig
from lede.adapt.errors import AdaptError
from lede.adapt.model import opened
from lede.collect import stdlib
from lede.collect.prompts import load_prompts
from lede.ground import stable_hash

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
            held_out = file != path and stable_hash(str(file.relative_to(path))) % stdlib.HELD_OUT_SHARE == 0
            found.append((file.read_text(encoding="utf-8"), held_out))
        except UnicodeDecodeError:
            if file == path:
                raise AdaptError(f"{path} is not UTF-8 text") from None
    return found


def prompts(path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[list[int], bool]]:
    """The prompts of a JSON-lines file as token ids, and whether training must not see them, by their groups' hash.

    Conversations go through the tokenizer's chat template, where it has one. Raises PromptError (`load_prompts`).
    """
    for prompt in load_prompts(path):
        chat = bool(prompt.messages and tokenizer.chat_template)
        text: Any = prompt.text
        if chat:
            text = tokenizer.apply_chat_template(list(prompt.messages), tokenize=False, add_generation_prompt=True)
        # verbose: no word about the context's length
        yield tokenizer.encode(text, add_special_tokens=not chat, verbose=False), prompt.split != "train"


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


@dataclass(frozen=True)
class Streams:
    """The text as int32 token ids: `train` (n,), `held_out` (m,), of so many documents."""

    tokenizer: PreTrainedTokenizerBase
    train: np.ndarray
    held_out: np.ndarray
    documents: int
    held_out_documents: int


def streams(text: Path | None, config: AdaptConfig, out: Path) -> Streams:
    """The token streams of the files of `text`, or the standard library's; a new tokenizer is kept in `out/tokenizer`.

    Raises AdaptError where the text is too short.
    """
    given = documents(text)
    seen, unseen = ([text for text, held_out in given if held_out == wanted] for wanted in (False, True))
    if not seen:
        raise AdaptError(f"there is no text to train on in {described(text)}")
    tokenizer = opened(AutoTokenizer, config.base) if config.base else _new_tokenizer(seen, config, out)
    if tokenizer.eos_token_id is None:
        raise AdaptError(f"the tokenizer of {config.base} has no end-of-text token")
    train, rest = (token_stream(texts, tokenizer) for texts in (seen, unseen))
    if len(rest) <= config.context:  # too few files for their names' hashes to divide: the last tenth instead
        cut = len(train) * 9 // 10
        train, rest = train[:cut], np.concatenate([rest, train[cut:]])
    if len(rest) <= config.context:
        raise AdaptError(
            f"the held-out text has {len(rest)} tokens and must fill a context of {config.context}: give more text, or "
            "a smaller --context"
        )
    return Streams(tokenizer, train, rest, len(seen), len(unseen))


def described(text: Path | None) -> str:
    """A training text in words."""
    return str(text or f"the standard library of CPython {platform.python_version()}")


def titled(text: Path | None) -> str:
    """A training text in words for a card, which is read elsewhere: without its folder."""
    return described(None if text is None else Path(text.resolve().name))


def _new_tokenizer(texts: list[str], config: AdaptConfig, out: Path) -> PreTrainedTokenizerBase:
    """The one in `out`, or one trained on `texts`, whole or not there at all."""
    folder = out / "tokenizer" / str(config.vocabulary)
    if not folder.exists():
        new = folder.with_name("new")
        shutil.rmtree(new, ignore_errors=True)
        train_tokenizer(texts, config.vocabulary).save_pretrained(new)
        new.rename(folder)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


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
