"""Prompt lookup: drafts are what followed the text's last n-gram when it occurred before.

Source: "prompt lookup decoding" (Saxena 2023), `prompt_lookup_num_tokens` of `transformers`' generate. Here it is
layer 0 with a fixed number of drafts. It deviates in the index: the longest n-gram of up to 8 tokens is matched (there
`max_matching_ngram_size`, 2 by default), its last occurrence is taken, and each draft asks again with the drafts before
it as part of the text, so that a copy goes on where the span that it copies from ends. Where there is no match, the
full model writes one token, as there.

Parameter: `draft_length` (10 by default there), tuned on training prompts by `bench.tune`.
"""

from lede.decode.rules.layerskip import LayerSkip


class PromptLookup(LayerSkip):
    """Layer 0 with a fixed draft length."""

    name = "prompt-lookup"

    def __init__(self, draft_length: int = 10):
        super().__init__(0, draft_length)
