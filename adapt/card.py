"""The model card: what the weights are, what they were made of and how, and what was measured."""

from lede.adapt.config import AdaptConfig
from lede.adapt.prepare import Streams
from lede.adapt.report import Report

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
| text | {source.described} |
| documents | {source.documents:,} trained on, {source.held_out_documents:,} held out |
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


def model_card(title: str, sizes: str, streams: Streams, config: AdaptConfig, report: Report) -> str:
    """README.md for a model of these `sizes` (in words), trained from these streams with this outcome."""
    source, progress = streams.source, report.progress
    if source.model:
        front_matter, warning = f"\nbase_model: {source.model}", ""
        what = f"{source.model} ({sizes}), trained further."
        licence = f"The weights come from {source.model} and stay under its licence.\n\n"
    else:
        front_matter, warning = "", "It is small: for tests, demonstrations and measurements, not for its answers."
        what, licence = f"A Llama of {sizes}, trained from nothing.", ""
    pairs = zip(report.on_text, report.on_output, strict=True)
    return CARD.format(
        title=title,
        front_matter=front_matter,
        what=what,
        warning=warning,
        source=source,
        progress=progress,
        config=config,
        report=report,
        train_tokens=len(streams.train),
        held_out_tokens=len(streams.held_out),
        epochs=progress.tokens / len(streams.train),
        minutes=progress.seconds / 60,
        exit_weights=", ".join(f"{w:g}" for w in config.exit_weights),
        rows="\n".join(f"| {n} | {text:.1%} | {output:.1%} |" for n, (text, output) in enumerate(pairs, 1)),
        licence=licence + (LIBRARY_LICENCE if source.text is None else TEXT_LICENCE),
    )
