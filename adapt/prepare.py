"""What a training starts from: model, tokenizer and the two token streams."""

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from lede.adapt import corpus
from lede.adapt.config import AdaptConfig
from lede.adapt.errors import AdaptError
from lede.adapt.train import new_model


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
    documents = corpus.documents(text)
    seen, unseen = ([text for text, held_out in documents if held_out == wanted] for wanted in (False, True))
    if not seen:
        raise AdaptError(f"there is no text to train on in {described(text)}")
    tokenizer = opened(AutoTokenizer, config.base) if config.base else _new_tokenizer(seen, config, out)
    if tokenizer.eos_token_id is None:
        raise AdaptError(f"the tokenizer of {config.base} has no end-of-text token")
    train, rest = (corpus.token_stream(texts, tokenizer) for texts in (seen, unseen))
    if len(rest) <= config.context:  # too few files for their names' hashes to divide: the last tenth instead
        cut = len(train) * 9 // 10
        train, rest = train[:cut], np.concatenate([rest, train[cut:]])
    if len(rest) <= config.context:
        raise AdaptError(
            f"the held-out text has {len(rest)} tokens and must fill a context of {config.context}: give more text, or "
            "a smaller --context"
        )
    return Streams(tokenizer, train, rest, len(seen), len(unseen))


def _new_tokenizer(texts: list[str], config: AdaptConfig, out: Path) -> PreTrainedTokenizerBase:
    """The one in `out`, or one trained on `texts`, whole or not there at all."""
    folder = out / "tokenizer" / str(config.vocabulary)
    if not folder.exists():
        new = folder.with_name("new")
        shutil.rmtree(new, ignore_errors=True)
        corpus.train_tokenizer(texts, config.vocabulary).save_pretrained(new)
        new.rename(folder)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def described(text: Path | None) -> str:
    """A training text in words."""
    return str(text or f"the standard library of CPython {platform.python_version()}")


def start_model(config: AdaptConfig, end_of_text: int, device: torch.device) -> tuple[LlamaForCausalLM, torch.dtype]:
    """The model to train, in fp32 on `device`, and the type its weights will be stored in (a new one's: fp16).

    Raises AdaptError as `open_llama` does.
    """
    if config.base is None:
        return new_model(config, end_of_text).to(device=device), torch.float16  # type: ignore[call-arg]
    loaded, stored = open_llama(config.base, config.context, torch.float32)
    return loaded.to(device=device), stored or torch.float32  # type: ignore[call-arg]


def open_llama(model: str, context: int, dtype: torch.dtype) -> tuple[LlamaForCausalLM, torch.dtype | None]:
    """A checkpoint in `dtype`, and the type in which it is stored.

    Raises AdaptError where it cannot be opened, is no Llama that the training forward knows, or not of this context.
    """
    sizes = opened(AutoConfig, model)
    if sizes.model_type != "llama":
        raise AdaptError(f"{model} is of type {sizes.model_type}; only Llama models can be trained to exit early")
    for name, known in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if getattr(sizes, name, known) != known:
            raise AdaptError(f"{model} has {name} = {getattr(sizes, name)}, which no released Llama has: not supported")
    if context > sizes.max_position_embeddings:
        raise AdaptError(f"context is {context}, but {model} knows {sizes.max_position_embeddings} positions")
    return opened(LlamaForCausalLM, model, dtype=dtype), sizes.dtype


def opened(kind: Any, model: str, **settings: Any) -> Any:
    """`kind.from_pretrained(model)`, with an error of one line."""
    try:
        return kind.from_pretrained(model, **settings)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AdaptError(f"cannot open the model {model}: {reason}") from None
