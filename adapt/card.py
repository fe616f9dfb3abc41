"""The card of what was trained: what it is, what it was made of and how, and what was measured."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from lede.adapt.config import AdaptConfig, ExitsConfig, Schedule
from lede.adapt.corpus import Streams, titled
from lede.adapt.report import ExitsReport, Report
from lede.adapt.train import Progress

FRONT_MATTER = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [layerskip, early-exit, self-speculative-decoding]{base}
---

"""
CARD = """\
# {title}

{intro}

## Training

| | |
|---|---|
{facts}

## Measured

{measured}

## Licence

{licence}
"""
NAMED = ("base", "layers", "hidden", "feed_forward", "heads", "vocabulary")  # settings that are told elsewhere
LAYERSKIP = """\
`lede adapt` made it, by LayerSkip's recipe (arXiv 2404.16710): at whatever layer it is left, the shared norm and head
turn that layer's output into a next token that is often the last layer's own, so it can draft for itself."""
EXITS = """\
With these its layers {layers} of {of} can draft for it; its own weights, and so its text, stay as they are. `lede adapt
--exits` made them: for each exit one decoder block over the layer's output and a norm, read through those rows of the
model's head that belong to the draft vocabulary; they learned the full model's distribution over it."""
LIBRARY_LICENCE = (
    "The text is CPython's standard library, copyright © Python Software Foundation and others, under the PSF License "
    "Version 2. A model may repeat what it was trained on: treat long passages of its output that are found there as "
    "being under that licence."
)
TEXT_LICENCE = "A model may repeat what it was trained on: the text's own licence holds for what it repeats."


def model_card(title: str, sizes: str, text: Path | None, streams: Streams, config: AdaptConfig, report: Report) -> str:
    """README.md for a model of these `sizes` (in words), trained on these streams of `text` with this outcome."""
    what = f"{config.base} ({sizes}), trained further." if config.base else f"A Llama of {sizes}, trained from nothing."
    small = "" if config.base else "\nIt is small: for tests, demonstrations and measurements, not for its answers."
    kept = f"The weights come from {config.base} and stay under its licence.\n\n" if config.base else ""
    train, held_out = len(streams.train), len(streams.held_out)
    facts = {
        "text": titled(text),
        "documents": f"{streams.documents:,} trained on, {streams.held_out_documents:,} held out",
        "tokens in the text": f"{train:,} trained on, {held_out:,} held out",
        "epochs": f"{report.progress.tokens / train:.1f}",
    }
    shares = [(f"{t:.1%}", f"{own:.1%}") for t, own in zip(report.on_text, report.on_output, strict=True)]
    measured = (
        f"Held-out loss: **{report.held_out_loss:.3f} nats per token** ({report.text_positions:,} positions).\n\n"
        "How often a layer's most likely token is the last layer's: on held-out text, and on the model's own greedy\n"
        f"continuations of it ({report.output_positions:,} positions), which is where drafts are made.\n\n"
    ) + _table(("layer", "held-out text", "own greedy output"), ((n, *pair) for n, pair in enumerate(shares, 1)))
    front = FRONT_MATTER.format(base=f"\nbase_model: {config.base}" if config.base else "")
    licence = kept + (LIBRARY_LICENCE if text is None else TEXT_LICENCE)
    return front + _card(title, f"{what} {LAYERSKIP}{small}", facts, report.progress, config, measured, licence)


def exits_card(name: str, layers: int, config: ExitsConfig, report: ExitsReport) -> str:
    """README.md for the heads of model `name`, which has so many `layers`."""
    facts = {
        "text": report.text,
        "tokens": f"{report.tokens:,} with their prompts, {report.own_tokens:,} of them the model's own greedy writing",
        "draft vocabulary": f"{report.vocabulary:,} tokens, {report.coverage:.2%} of what the model writes",
    }
    measured = (
        f"How often a head's most likely token is the model's, on {report.held_out:,} tokens of the model's own\n"
        "greedy answers to held-out prompts:\n\n"
    ) + _table(("layer", "agreement"), ((layer, f"{share:.1%}") for layer, share in report.agreement.items()))
    intro = EXITS.format(layers=", ".join(map(str, config.exits)), of=layers)
    licence = "The heads are made from the model's weights and what it wrote: they are under its licence."
    return _card(f"Exit heads for {name}", intro, facts, report.progress, config, measured, licence)


def _card(
    title: str, intro: str, facts: dict[str, str], progress: Progress, config: Schedule, measured: str, licence: str
) -> str:
    facts |= {
        "tokens seen": f"{progress.tokens:,} in {progress.step:,} steps, {progress.seconds / 60:.0f} minutes",
        "settings": ", ".join(f"{name} {value}" for name, value in asdict(config).items() if name not in NAMED),
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return CARD.format(title=title, intro=intro, facts=rows, measured=measured, licence=licence)


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
