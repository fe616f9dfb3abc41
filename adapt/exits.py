"""`lede adapt --exits`: exit heads for a Llama whose own weights stay as they are.

A training's folder holds `states/` (what the model made of its training text), `checkpoint.pt` (heads, optimiser and
progress, replaced as a whole every few minutes) and, once finished, the heads (`decode/exits.py`) with a card. The
first two are then no longer needed; while they are there, the same command measures and exports again.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lede.adapt.card import exits_card
from lede.adapt.config import ExitsConfig
from lede.adapt.corpus import described, documents, prompts, titled
from lede.adapt.errors import AdaptError
from lede.adapt.heads import Heads, draft_vocabulary
from lede.adapt.model import DEVICE, open_llama, opened, stop_tokens
from lede.adapt.report import ExitsReport
from lede.adapt.states import Text, keep_states
from lede.adapt.train import optimise
from lede.decode.exits import save_exits
from lede.decode.model import weights_hash
from lede.ground import fingerprint

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

    `on_progress` gets the stage, the share of it that is done and a word on how it goes. Raises AdaptError or
    PromptError for what the user can put right, OSError where `out` cannot be written.
    """
    frozen, _ = open_llama(model, config.context, torch.bfloat16)
    layers = frozen.config.num_hidden_layers
    if not config.exits or not all(0 < layer < layers for layer in config.exits):
        raise AdaptError(f"exits {', '.join(map(str, config.exits))}: give layers from 1 to {layers - 1} of {model}")
    frozen.to(DEVICE).requires_grad_(False).eval()  # type: ignore[arg-type]
    made_by, ends, tokenizer = weights_hash(frozen.state_dict()), stop_tokens(frozen), opened(AutoTokenizer, model)
    read = read_text(text, tokenizer, min(config.context, frozen.config.max_position_embeddings // 2))
    asked = {name: getattr(config, name) for name in ("exits", "own_text", "answer", "disk", "seed")}
    asked |= {"model": made_by, "text": fingerprint(json.dumps(asdict(read)))}
    kept = keep_states(frozen, read, config, ends, asked, out / "states", partial(on_progress, "hidden states"))
    always = ends | set(tokenizer.all_special_ids)
    vocabulary = draft_vocabulary(kept.train, frozen.config.vocab_size, config.draft_vocabulary, always)
    heads = Heads(frozen, config.exits, vocabulary, compiled)
    step, named = partial(heads.add_gradients, kept.train, config), fingerprint(json.dumps(asked))
    progress = optimise(heads, step, config, named, out, lambda p: on_progress("training", p.share(config), str(p)))
    own = kept.held_out.next_tokens()
    report = ExitsReport(
        progress=progress,
        text=titled(text),
        own_tokens=kept.own,
        tokens=len(kept.train),
        cut=kept.cut,
        held_out=len(own),
        agreement=heads.agreement(kept.held_out),
        vocabulary=len(heads.ids),
        coverage=float(torch.isin(own, heads.ids).float().mean()),
    )
    name = Path(model).resolve().name
    card = {
        "model": name,
        "weights_hash": made_by,
        "layers": list(config.exits),
        "draft_vocabulary": 0 if vocabulary is None else len(vocabulary),
        "trained": {"text": report.text, "tokens": report.tokens, "own_tokens": kept.own, "steps": progress.step}
        | {"minutes": round(progress.seconds / 60, 1)},
        "agreement": report.agreement,
        "coverage": report.coverage,
    }
    save_exits(out, card, heads.artefact())
    (out / "README.md").write_text(exits_card(name, layers, config, report), encoding="utf-8")
    return report


def read_text(path: Path | None, tokenizer: PreTrainedTokenizerBase, longest: int) -> Text:
    """The prompts of a JSON-lines file, or texts in pieces and their openings as prompts; all of at most `longest`.

    Raises AdaptError where there is too little.
    """
    texts: list[list[int]] = []
    if path is not None and path.suffix == ".jsonl":
        given = [pair for pair in prompts(path, tokenizer) if 0 < len(pair[0]) <= longest]
        seen, unseen = _sides(given)
    else:
        given = [(tokenizer.encode(text, verbose=False), held_out) for text, held_out in documents(path)]
        pieces = [(ids[i : i + longest], held_out) for ids, held_out in given for i in range(0, len(ids), longest)]
        texts, rest = _sides([piece for piece in pieces if len(piece[0]) > 1])
        if not rest:
            texts, rest = texts[: len(texts) * 9 // 10], texts[len(texts) * 9 // 10 :]
        seen, unseen = ([ids[: min(OPENING, len(ids) - 1)] for ids in side] for side in (texts, rest))
    if not seen or not unseen:
        raise AdaptError(
            f"{described(path)} has {len(seen)} prompts or texts to train on and {len(unseen)} held out, of at most "
            f"{longest} tokens: give more, or a larger --context"
        )
    return Text(seen, texts, unseen)


def _sides(given: list[tuple[list[int], bool]]) -> tuple[list[list[int]], list[list[int]]]:
    """What may be trained on, and what is held out."""
    return [ids for ids, held_out in given if not held_out], [ids for ids, held_out in given if held_out]
