"""Text as it is written: tokens in, whole characters out."""

from collections.abc import Callable

from lede.decode.model import Model
from lede.decode.round import Round


class Stream:
    """Hands on the text of each round; a character whose last bytes are still missing waits for them."""

    def __init__(self, model: Model, write: Callable[[str], object]):
        self._tokenizer, self._write = model.tokenizer, write
        self._tokens: list[int] = []
        self._written = 0

    def round(self, round_: Round) -> None:
        """One more round was committed."""
        if self._tokenizer is None:
            return
        self._tokens += round_.committed
        text = str(self._tokenizer.decode(self._tokens, skip_special_tokens=True))
        whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
        if len(whole) > self._written:
            self._write(whole[self._written :])
            self._written = len(whole)
