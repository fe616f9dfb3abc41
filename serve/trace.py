"""A generation in colours: which layer drafted each token, and what the full model thought of it."""

from collections.abc import Sequence

from rich.text import Text

from lede.decode.round import Round
from lede.serve.stream import Decoder

LOOKUP = "bright_black"
DEPTHS = ("bright_green", "green", "cyan", "blue", "magenta")  # exits from shallow to deep
VERIFIER = "bold white"
REJECTED = "red strike"


class Tracer:
    """Turns rounds into coloured text, one after the other.

    marks: put rejected drafts in [- -], for where there are no styles.
    """

    def __init__(self, decoder: Decoder, layer_count: int, marks: bool = False):
        self._decoder, self._layers, self._rejected = decoder, layer_count, "[-{}-]" if marks else "{}"

    def round(self, round_: Round) -> Text:
        """Accepted drafts in their exit layer's colour, rejected ones struck through, the verifier's own in bold."""
        text = Text()
        kept = round_.committed[: round_.accepted]
        text.append(self._decoder.add(kept), style=self.style(round_.exit_layer))
        if round_.accepted < len(round_.drafts):
            rejected = self._decoder.peek(round_.drafts[round_.accepted :])
            text.append(self._rejected.format(rejected), style=REJECTED)
        text.append(self._decoder.add(round_.committed[round_.accepted :]), style=VERIFIER)
        return text

    def style(self, layer: int | None) -> str:
        """The colour of an exit layer."""
        if not layer:
            return LOOKUP
        return DEPTHS[min(layer * 2 * len(DEPTHS) // self._layers, len(DEPTHS) - 1)]

    def legend(self, layers: Sequence[int]) -> Text:
        """What the colours mean, for the candidate layers of a policy."""
        parts = [
            ("lookup" if layer == 0 else f"layer {layer}", self.style(layer))
            for layer in layers
            if layer < self._layers
        ]
        parts += [("the full model's own", VERIFIER), (self._rejected.format("rejected"), REJECTED)]
        return Text("  ").join(Text(words, style=style) for words, style in parts)
