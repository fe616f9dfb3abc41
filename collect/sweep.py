"""Sweeps: what every candidate layer would have drafted at every position of a finished greedy text.

In greedy decoding the committed tokens do not depend on the rule, and a layer's output at a position depends only on
the tokens before it. So one teacher-forced pass over the text tells what any rule would have seen there.
"""

from typing import Any

import torch

from lede.decode.lookup import Lookup
from lede.decode.model import Model
from lede.decode.rules import LONG_DRAFTS
from lede.decode.state import ConfidenceTrace, Statistics
from lede.replay.schema import SWEEPS

BLOCK = LONG_DRAFTS + 1  # rows a pass: as many as a verification has, so that products round as they do in decoding


@torch.inference_mode()
def sweep(
    model: Model, layers: tuple[int, ...], episode: int, prompt: tuple[int, ...], output: tuple[int, ...]
) -> dict[str, list[Any]]:
    """Columns of the sweeps table: a row for each position of `output` and each candidate (0: where it has a guess)."""
    tokens = [*prompt, *output]
    first = len(prompt) - 1  # the position whose logits give output[0]
    seen = _statistics(model, tuple(layer for layer in layers if layer > 0), tokens, first)
    confidence = [s.top1_logp for s in seen[model.layer_count]]
    lookup, trace = Lookup(prompt), ConfidenceTrace()
    rows: list[tuple[Any, ...]] = []
    for i, target in enumerate(output):
        guess, behind = lookup.guess(), trace.value
        for layer in layers:
            if layer == 0 and guess is None:
                continue
            s = seen[layer][i] if layer > 0 or guess is None else Statistics(guess.token, 0.0, 0.0, 0.0, 0.0)
            same = (0.0, 0.0, 0.0) if guess is None else (guess.length, guess.agreement, float(guess.token == s.token))
            state = (s.conf_topk, s.entropy, behind, s.margin, s.top1_logp, *same, 0.0, 0.0, 0.0, 0.0)
            rows.append((episode, len(prompt) + i, layer, *state, s.token, target))
        lookup.push(target)
        trace.add(confidence[i : i + 1])
    return {name: [row[j] for row in rows] for j, name in enumerate(SWEEPS.names)}


def _statistics(model: Model, layers: tuple[int, ...], tokens: list[int], first: int) -> dict[int, list[Statistics]]:
    """{layer: Statistics of every position from `first` to the last but one}, for `layers` and the last layer."""
    cache = model.cache(len(tokens), first + 1)
    wanted = (*layers, model.layer_count)
    seen: dict[int, list[Statistics]] = {layer: [] for layer in wanted}
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
                    seen[layer] += model.said(model.speak(layer, x_out, start + skipped, cache))
    return seen
