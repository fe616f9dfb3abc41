"""Text to train on, as one stream of token ids split into training and held-out documents."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from lede.adapt.errors import AdaptError
from lede.collect import stdlib
from lede.collect.stdlib import HELD_OUT_SHARE
from lede.replay.split import stable_hash

END_OF_TEXT = "<|endoftext|>"


Document = tuple[str, bool]  # a text, and whether training must not see it


def standard_library() -> Iterator[Document]:
    """The running interpreter's own source, split by module (see `collect/stdlib.py`)."""
    for module in stdlib.modules():
        if (text := stdlib.read(module)) is not None:
            yield text, module.held_out


def text_files(folder: Path) -> Iterator[Document]:
    """Every UTF-8 text file below `folder` (or `folder` itself where it is a file), split by a hash of its name.

    Nothing is held out of a lone file here. Raises AdaptError where there is no such path, or no such text.
    """
    if not folder.exists():
        raise AdaptError(f"there is no text at {folder}")
    for path in [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            if path == folder:
                raise AdaptError(f"{folder} is not UTF-8 text") from None
            continue
        yield text, path != folder and stable_hash(str(path.relative_to(folder))) % HELD_OUT_SHARE == 0


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
