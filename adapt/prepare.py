"""What a training starts from: model, tokenizer and the two token streams, the last two kept for when it is resumed."""

import json
import platform
import shutil
from dataclasses import asdict, dataclass
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
class Source:
    """What the streams were made of; `model`, `text`, `vocabulary` (of a new tokenizer) are as they were given."""

    model: str | None
    text: str | None
    vocabulary: int | None
    described: str  # the text in words, for the model card
    documents: int
    held_out_documents: int


@dataclass(frozen=True)
class Streams:
    """The text as int32 token ids: `train` (n,), `held_out` (m,)."""

    source: Source
    tokenizer: PreTrainedTokenizerBase
    train: np.ndarray
    held_out: np.ndarray


def streams(model: str | None, text: Path | None, config: AdaptConfig, out: Path) -> Streams:
    """The token streams kept in `out/tokens`, or else made there: of the files of `text`, or the standard library's.

    Raises AdaptError where the kept ones are of another text or tokenizer, or the text is too short.
    """
    if model is not None and Path(model).resolve() == out.resolve():
        raise AdaptError(f"{out} is the model to go on from: give another --out, it would be written over")
    path, vocabulary = None if text is None else str(text.resolve()), config.vocabulary if model is None else None
    asked = {"model": model, "text": path, "vocabulary": vocabulary}
    folder = out / "tokens"
    if not folder.exists():
        _keep(_made(asked, text, config), folder)
    source = Source(**json.loads((folder / "source.json").read_text(encoding="utf-8")))
    if differing := [name for name, value in asked.items() if getattr(source, name) != value]:
        raise AdaptError(f"{folder} is of another training (different: {', '.join(differing)}): give another --out")
    train, held_out = (np.load(folder / f"{name}.npy") for name in ("train", "held_out"))
    if len(held_out) <= config.context:
        raise AdaptError(
            f"the held-out text has {len(held_out)} tokens and must fill a context of {config.context}: give more "
            "text, or a smaller --context"
        )
    return Streams(source, AutoTokenizer.from_pretrained(folder), train, held_out)


def _made(asked: dict, text: Path | None, config: AdaptConfig) -> Streams:
    documents = list(corpus.standard_library() if text is None else corpus.text_files(text))
    seen, unseen = ([text for text, held_out in documents if held_out == wanted] for wanted in (False, True))
    if not seen:
        raise AdaptError(f"there is no text to train on in {text or 'the standard library'}")
    if asked["model"] is None:
        tokenizer: PreTrainedTokenizerBase = corpus.train_tokenizer(seen, config.vocabulary)
    else:
        tokenizer = _opened(AutoTokenizer, asked["model"])
        if tokenizer.eos_token_id is None:
            raise AdaptError(f"the tokenizer of {asked['model']} has no end-of-text token")
    library = f"the standard library of CPython {platform.python_version()}"
    source = Source(**asked, described=str(text or library), documents=len(seen), held_out_documents=len(unseen))
    train, rest = (corpus.token_stream(texts, tokenizer) for texts in (seen, unseen))
    if len(rest) <= config.context:  # too few files for their names' hashes to divide: the last tenth instead
        cut = len(train) * 9 // 10
        train, rest = train[:cut], np.concatenate([rest, train[cut:]])
    return Streams(source, tokenizer, train, rest)


def _keep(made: Streams, folder: Path) -> None:
    """Write everything beside `folder`, then rename: a folder that is there is whole."""
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    np.save(new / "train.npy", made.train)
    np.save(new / "held_out.npy", made.held_out)
    made.tokenizer.save_pretrained(new)
    (new / "source.json").write_text(json.dumps(asdict(made.source), indent=2), encoding="utf-8")
    new.rename(folder)


def start_model(
    model: str | None, config: AdaptConfig, end_of_text: int, device: torch.device
) -> tuple[LlamaForCausalLM, torch.dtype]:
    """The model to train, in fp32 on `device`, and the type its weights will be stored in (a new one's: fp16).

    Raises AdaptError where `model` cannot be opened or is no Llama that the training forward knows.
    """
    if model is None:
        return new_model(config, end_of_text).to(device=device), torch.float16  # type: ignore[call-arg]
    sizes = _opened(AutoConfig, model)
    if sizes.model_type != "llama":
        raise AdaptError(f"{model} is of type {sizes.model_type}; only Llama models can be trained to exit early")
    for name, known in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if getattr(sizes, name, known) != known:
            raise AdaptError(f"{model} has {name} = {getattr(sizes, name)}, which no released Llama has: not supported")
    if config.context > sizes.max_position_embeddings:
        raise AdaptError(f"context is {config.context}, but {model} knows {sizes.max_position_embeddings} positions")
    loaded = _opened(LlamaForCausalLM, model, dtype=torch.float32)
    return loaded.to(device=device), sizes.dtype or torch.float32


def _opened(kind: Any, model: str, **settings: Any) -> Any:
    """`kind.from_pretrained(model)`, with an error of one line."""
    try:
        return kind.from_pretrained(model, **settings)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AdaptError(f"cannot open the model {model}: {reason}") from None
