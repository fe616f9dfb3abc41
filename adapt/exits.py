"""`lede adapt --exits`: exit heads for a Llama whose own weights stay as they are.

A training's folder holds `states/` (what the model made of its training text), `checkpoint/` (heads, optimiser and
progress, replaced as a whole every few minutes) and, once finished, the heads (`decode/exits.py`) with a card. The two
subfolders are then no longer needed; while they are there, the same command measures and exports again.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lede.adapt import corpus
from lede.adapt.card import exits_card
from lede.adapt.config import ExitsConfig
from lede.adapt.errors import AdaptError
from lede.adapt.heads import Heads, draft_vocabulary
from lede.adapt.own_text import stop_tokens
from lede.adapt.prepare import described, open_llama, opened
from lede.adapt.report import ExitsReport
from lede.adapt.states import Text, keep_states
from lede.adapt.train import Progress, can_compile, check_same, optimise
from lede.decode.exits import save_exits
from lede.decode.facts import weights_hash
from lede.replay.split import fingerprint

OPENING = 64  # tokens of a text that the model goes on from


def train_exits(
    model: str,
    text: Path | None,
    out: Path,
    config: ExitsConfig,
    on_progress: Callable[[str, float, str], None] = lambda stage, share, note: None,
    compiled: bool | None = None,
) -> ExitsReport:
    """Train heads for `model` on `text` (None: CPython's standard library) into `out`; goes on where it was stopped.

    `on_progress` gets the stage, the share of it that is done and a word on how it goes. Raises AdaptError for what the
    user can put right, OSError where `out` cannot be written.
    """
    loaded, _ = open_llama(model, config.context, torch.bfloat16)
    layers = loaded.config.num_hidden_layers
    if not config.exits or not all(0 < layer < layers for layer in config.exits):
        raise AdaptError(f"exits {', '.join(map(str, config.exits))}: give layers from 1 to {layers - 1} of {model}")
    frozen = loaded.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False).eval()  # type: ignore
    made_by, ends = weights_hash(frozen.state_dict()), stop_tokens(frozen)
    tokenizer = opened(AutoTokenizer, model)
    read = read_text(text, tokenizer, min(config.context, loaded.config.max_position_embeddings // 2))
    settings = asdict(config)
    asked = {name: settings[name] for name in ("exits", "own_text", "answer", "disk", "seed")}
    asked |= {"model": made_by, "text": fingerprint(json.dumps(asdict(read)))}
    _begin(out / "states", asked)
    kept = keep_states(frozen, read, config, ends, out / "states", partial(on_progress, "hidden states"))
    if len(kept.train) < config.context:
        raise AdaptError(
            f"there are hidden states of {len(kept.train)} tokens, and one window takes {config.context}: give more "
            "text, more --own-text or more --disk"
        )
    vocabulary = draft_vocabulary(
        kept.train, frozen.config.vocab_size, config.draft_vocabulary, ends | set(tokenizer.all_special_ids)
    )
    heads = Heads(frozen, config.exits, vocabulary, can_compile() if compiled is None else compiled)

    def show(p: Progress) -> None:
        on_progress("training", p.share(config), str(p))

    step = partial(heads.add_gradients, kept.train, config)
    progress = optimise(heads, step, config, fingerprint(json.dumps(asked)), out, show)
    own = kept.held_out.next_tokens()
    report = ExitsReport(
        progress=progress,
        text=read.described,
        own_tokens=kept.own,
        tokens=len(kept.train),
        cut=kept.cut,
        held_out=len(own),
        agreement=heads.agreement(kept.held_out),
        vocabulary=len(heads.ids),
        coverage=float(torch.isin(own, heads.ids).float().mean()),
    )
    name = Path(model).resolve().name
    card = {"model": name, "weights_hash": made_by, "layers": list(config.exits)}
    trained = {"text": read.described, "tokens": report.tokens, "own_tokens": kept.own, "steps": progress.step}
    save_exits(
        out,
        card
        | {"draft_vocabulary": 0 if vocabulary is None else len(vocabulary)}
        | {"trained": trained | {"minutes": round(progress.seconds / 60, 1)}}
        | {"agreement": report.agreement, "coverage": report.coverage},
        heads.artefact(),
    )
    (out / "README.md").write_text(exits_card(name, layers, config, report), encoding="utf-8")
    return report


def _begin(folder: Path, asked: dict[str, Any]) -> None:
    """Say in `folder` what its files are made of; raise AdaptError where it holds others."""
    folder.mkdir(parents=True, exist_ok=True)
    file, new = folder / "asked.json", folder / "asked.new"
    if file.exists():
        check_same(folder, json.loads(file.read_text()), asked)
    new.write_text(json.dumps(asked))
    new.replace(file)


def read_text(path: Path | None, tokenizer: PreTrainedTokenizerBase, longest: int) -> Text:
    """The prompts of a JSON-lines file, or texts in pieces and their openings as prompts; all of at most `longest`.

    Raises AdaptError where there is too little.
    """
    if path is not None and path.suffix == ".jsonl":
        given = [pair for pair in corpus.prompts(path, tokenizer) if 0 < len(pair[0]) <= longest]
        texts: list[list[int]] = []
        prompts, held_out = ([ids for ids, unseen in given if unseen == side] for side in (False, True))
    else:
        given = [(tokenizer.encode(text, verbose=False), unseen) for text, unseen in corpus.documents(path)]
        pieces = [(ids[i : i + longest], unseen) for ids, unseen in given for i in range(0, len(ids), longest)]
        texts, rest = ([ids for ids, unseen in pieces if unseen == side and len(ids) > 1] for side in (False, True))
        if not rest:
            texts, rest = texts[: len(texts) * 9 // 10], texts[len(texts) * 9 // 10 :]
        prompts, held_out = ([ids[: min(OPENING, len(ids) - 1)] for ids in side] for side in (texts, rest))
    if not prompts or not held_out:
        raise AdaptError(
            f"{path or 'the standard library'} has {len(prompts)} prompts or texts to train on and {len(held_out)} "
            f"held out, of at most {longest} tokens: give more, or a larger --context"
        )
    return Text(described(path), prompts, texts, held_out)
