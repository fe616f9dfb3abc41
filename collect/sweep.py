"""Sweeps: what every candidate layer would have drafted at every position of a finished text.

The committed tokens do not depend on the rule, in sampled text as in greedy text, and what a layer drafts at a position
depends only on the tokens before it and on the noise there. So one teacher-forced pass over the text tells what any
rule would have seen there.
"""

from typing import Any

import torch

from lede.decode.choice import Choice, Chooser
from lede.decode.lookup import Lookup
from lede.decode.loop import Look
from lede.decode.model import Model
from lede.decode.sampling import Settings, chooser
from lede.decode.state import ConfidenceTrace, Statistics
from lede.process import LONG_DRAFTS
from lede.replay.schema import SWEEPS

BLOCK = LONG_DRAFTS + 1  # rows a pass: as many as a verification has, so that products round as they do in decoding


@torch.inference_mode()
def sweep(
    model: Model,
    layers: tuple[int, ...],
    episode: int,
    prompt: tuple[int, ...],
    output: tuple[int, ...],
    settings: Settings | None = None,
) -> dict[str, list[Any]]:
    """Columns of the sweeps table: a row for each position of `output` and each candidate (0: where it has a guess).

    settings: those that the text was decoded with, its seed included; None: greedy.
    """
    tokens = [*prompt, *output]
    choose = chooser(settings or Settings(), model, [*prompt])
    first = len(prompt) - 1  # the position whose logits give output[0]
    seen, chosen = _seen(model, tuple(layer for layer in layers if layer > 0), tokens, first, choose)
    confidence = [s.top1_logp for s in seen[model.layer_count]]
    lookup, trace = Lookup(prompt), ConfidenceTrace()
    rows: list[dict[str, Any]] = []
    for i, target in enumerate(output):
        guess = lookup.guess()
        text = {"conf_trace": trace.value, "temperature": choose.temperature}
        for layer in layers:
            if layer == 0 and guess is None:
                continue
            if layer > 0 or guess is None:
                look = Look.of(seen[layer][i], chosen[layer][i], guess)
            else:
                look = Look.copied(guess, choose.noise(len(prompt) + i, guess.token))
            place = {"episode": episode, "position": len(prompt) + i, "layer": layer, "target_token": target}
            rows.append(place | text | look._asdict() | {"draft_token": look.token})
        lookup.push(target)
        trace.add(confidence[i : i + 1])
    return {name: [row[name] for row in rows] for name in SWEEPS.names}


def _seen(
    model: Model, layers: tuple[int, ...], tokens: list[int], first: int, choose: Chooser
) -> tuple[dict[int, list[Statistics]], dict[int, list[Choice]]]:
    """{layer: of every position from `first` to the last but one}, Statistics for `layers` and the last layer, drafts.

    The last layer has no drafts.
    """
    cache = model.cache(len(tokens), first + 1)
    wanted = (*layers, model.layer_count)
    seen: dict[int, list[Statistics]] = {layer: [] for layer in wanted}
    chosen: dict[int, list[Choice]] = {layer: [] for layer in layers}
    for start in range(0, len(tokens) - 1, BLOCK):
        x, reached = model.embed(tokens[start : min(start + BLOCK, len(tokens) - 1)]), 0
        for layer in wanted:
            x = model.run(reached, layer, x, start, cache)
            reached = layer
            if start + len(x) > first:
                skipped = max(first - start, 0)
                x_out = x[skipped:]
                if layer == model.layer_count:
                    seen[layer] += model.statistics(model.head(x_out))
                else:
                    logits, behind = model.speak(layer, x_out, start + skipped, cache), start + skipped + 1
                    rows = model.said(logits)
                    seen[layer] += rows
                    if choose.plain:
                        chosen[layer] += [Choice(row.token) for row in rows]
                    else:
                        chosen[layer] += choose.drafts(logits, tokens[:behind], tokens[behind : start + len(x)])
    return seen, chosen
