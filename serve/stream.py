"""Text as it is written: tokens in, whole characters out."""

import re
from collections.abc import Sequence
from typing import Any

BYTE = re.compile("<0x[0-9A-F]{2}>")  # SentencePiece's token for one byte


class Decoder:
    """Decodes a text that grows; its pieces together are the tokenizer's decode of the whole.

    Only the last tokens are decoded again. What a token adds depends on there being text before it, as some tokenizers
    drop the first space of a text; and a character may take several tokens. `before` are tokens that the text goes on
    from.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = (), skip_special_tokens: bool = True):
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._tokens = list(before)  # those of the last piece, and after them those not in a piece yet
        self._whole = self._settled = len(before)  # how many of them are in pieces; how many no later token changes
        self._given = len(self._decode(self._tokens))  # how many of their characters are in pieces

    def add(self, tokens: Sequence[int]) -> str:
        """The text that `tokens` make whole; characters that later tokens may still change wait."""
        for token in tokens:
            self._tokens.append(token)
            # One wrong byte in a run of such tokens makes a replacement character of each; tokens without text, such as
            # skipped special ones, do not end a run.
            if self._decode([token]) and not BYTE.fullmatch(self._tokenizer.convert_ids_to_tokens(token)):
                self._settled = len(self._tokens)
        text = self._decode(self._tokens[: self._settled])
        complete = text.rstrip("\N{REPLACEMENT CHARACTER}")
        piece = complete[self._given :]
        if piece:
            self._given = len(complete)
            if complete == text:
                del self._tokens[: self._whole]
                self._whole = self._settled = self._settled - self._whole
                self._given = len(self._decode(self._tokens[: self._whole]))
        return piece

    def peek(self, tokens: Sequence[int] = ()) -> str:
        """What would be there, beyond what is, if the text ended behind `tokens`."""
        return self._decode([*self._tokens, *tokens])[self._given :]

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=self._skip))


class Until:
    """A text that grows, up to the first of some stop strings, which is left out.

    What may be the beginning of one is held back. A text given token by token ends at the same token and character
    whatever the rounds were that wrote it.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops, self._held = stops, ""
        self.ended = False

    def add(self, piece: str) -> str:
        """What can be given out after `piece`."""
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:  # the first that is complete; of several, the longest
            self.ended, at = True, min(found)[1]
        else:
            longest = min(max(map(len, self._stops), default=1) - 1, len(text))
            begun = (k for k in range(longest, 0, -1) if any(stop.startswith(text[-k:]) for stop in self._stops))
            at = len(text) - next(begun, 0)
        self._held = text[at:]
        return text[:at]

    def rest(self) -> str:
        """What was held back and began no stop string, as the text has ended."""
        return "" if self.ended else self._held
