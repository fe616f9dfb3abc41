"""LayerSkip's self-speculative decoding, and with exit layer 0 plain prompt lookup: nothing is decided."""

from decode.rules.base import Rule


class LayerSkip(Rule):
    """A fixed exit layer and draft length (arXiv 2404.16710, §4.3). exit_layer 0 is plain prompt lookup."""

    name = "layerskip"

    def __init__(self, exit_layer: int, draft_length: int):
        self.layers = (exit_layer,)
        self.max_drafts = draft_length
