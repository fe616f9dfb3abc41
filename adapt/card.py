"""The model card: what the weights are, what they were made of and how, and what was measured."""

from pathlib import Path

from lede.adapt.config import AdaptConfig, ExitsConfig
from lede.adapt.prepare import Streams, described
from lede.adapt.report import ExitsReport, Report

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [layerskip, early-exit, self-speculative-decoding]{front_matter}
---

# {title}

{what} `lede adapt` made it, by LayerSkip's recipe (arXiv 2404.16710): at whatever layer it is left, the shared norm
and head turn that layer's output into a next token that is often the last layer's own, so it can draft for itself.
{warning}

## Training

| | |
|---|---|
| text | {text} |
| documents | {streams.documents:,} trained on, {streams.held_out_documents:,} held out |
| tokens in the text | {train_tokens:,} trained on, {held_out_tokens:,} held out |
| tokens seen | {progress.tokens:,} in {progress.step:,} steps of {config.batch} × {config.context} \
({epochs:.1f} epochs), {minutes:.0f} minutes |
| optimisers | Muon for the layers' matrices ({config.matrix_lr:g}), AdamW for the rest ({config.other_lr:g}); bf16 \
autocast |
| schedule | {config.warmup:.0%} warm-up, constant, linear from {config.decay_from:.0%} on down to \
{config.final_lr:.0%} of the peak |
| layers left out | layer l of L with probability rising exponentially from 0 to {config.layer_dropout:g} |
| exits taught | each step one of the layers 1…L/4-1, one of L/4…L/2-1, one of L/2…L-1, weights {exit_weights} |
| their target | the text; after {config.distil_from:.0%} of the training {config.distil_share:.0%} the last layer's \
distribution |

## Measured

Held-out loss: **{report.held_out_loss:.3f} nats per token** ({report.text_positions:,} positions).

How often a layer's most likely token is the last layer's: on held-out text, and on the model's own greedy continuations
of it ({report.output_positions:,} positions), which is where drafts are made.

| layer | held-out text | own greedy output |
|---:|---:|---:|
{rows}

## Licence

{licence}
"""
LIBRARY_LICENCE = (
    "The text is CPython's standard library, copyright © Python Software Foundation and others, under the PSF License "
    "Version 2. A model may repeat what it was trained on: treat long passages of its output that are found there as "
    "being under that licence."
)
TEXT_LICENCE = "A model may repeat what it was trained on: the text's own licence holds for what it repeats."


def model_card(title: str, sizes: str, text: Path | None, streams: Streams, config: AdaptConfig, report: Report) -> str:
    """README.md for a model of these `sizes` (in words), trained on these streams of `text` with this outcome."""
    what, front_matter = f"A Llama of {sizes}, trained from nothing.", ""
    licence = LIBRARY_LICENCE if text is None else TEXT_LICENCE
    if config.base:
        what, front_matter = f"{config.base} ({sizes}), trained further.", f"\nbase_model: {config.base}"
        licence = f"The weights come from {config.base} and stay under its licence.\n\n{licence}"
    pairs = zip(report.on_text, report.on_output, strict=True)
    return CARD.format(
        title=title,
        front_matter=front_matter,
        what=what,
        warning="" if config.base else "It is small: for tests, demonstrations and measurements, not for its answers.",
        text=described(text),
        streams=streams,
        progress=report.progress,
        config=config,
        report=report,
        train_tokens=len(streams.train),
        held_out_tokens=len(streams.held_out),
        epochs=report.progress.tokens / len(streams.train),
        minutes=report.progress.seconds / 60,
        exit_weights=", ".join(f"{w:g}" for w in config.exit_weights),
        rows="\n".join(f"| {n} | {text:.1%} | {output:.1%} |" for n, (text, output) in enumerate(pairs, 1)),
        licence=licence,
    )


EXITS_CARD = """\
# Exit heads for {name}

With these its layers {layers} of {of} can draft for it; its own weights, and so its text, stay as they are. `lede adapt
--exits` made them: for each exit one decoder block over the layer's output and a norm, read through the {rows} rows of
the model's head that belong to the draft vocabulary; they learned the full model's distribution over it.

| | |
|---|---|
| text | {report.text} |
| tokens | {report.tokens:,} with their prompts, {report.own_tokens:,} of them the model's own greedy writing |
| tokens seen | {progress.tokens:,} in {progress.step:,} steps of {config.batch} × {config.context}, \
{minutes:.0f} minutes |
| optimiser | AdamW, {config.other_lr:g}, linear from {config.decay_from:.0%} on; bf16 autocast |
| draft vocabulary | {report.vocabulary:,} tokens, {report.coverage:.2%} of what the model writes |

How often a head's most likely token is the model's, on {report.held_out:,} tokens of the model's own greedy answers to
held-out prompts:

| layer | agreement |
|---:|---:|
{agreement}

The heads are made from the model's weights and what it wrote: they are under its licence.
"""


def exits_card(name: str, layers: int, config: ExitsConfig, report: ExitsReport) -> str:
    """README.md for the heads of model `name`, which has so many `layers`."""
    return EXITS_CARD.format(
        name=name,
        layers=", ".join(map(str, config.exits)),
        of=layers,
        rows=f"{report.vocabulary:,}",
        report=report,
        progress=report.progress,
        config=config,
        minutes=report.progress.seconds / 60,
        agreement="\n".join(f"| {layer} | {share:.1%} |" for layer, share in report.agreement.items()),
    )
