"""LayerSkip's self-speculative decoding: a fixed exit layer and draft length, nothing is decided.

Source: LayerSkip (arXiv 2404.16710), §4.3: draft a set number of tokens with the first E layers, verify with the rest,
the key-value cache shared; its public code calls them `exit_layer` and `num_speculations`. No deviation. Parameters:
both, tuned on training prompts by `bench.tune`.
"""

from lede.decode.rules.base import Rule


class LayerSkip(Rule):
    """A fixed exit layer and draft length. Exit layer 0 is plain prompt lookup."""

    name = "layerskip"

    def __init__(self, exit_layer: int, draft_length: int):
        self.layers = (exit_layer,)
        self.max_drafts = draft_length
