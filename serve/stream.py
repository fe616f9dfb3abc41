"""Text as it is written: tokens in, whole characters out."""

import codecs
import re
from collections.abc import Sequence
from typing import Any

from lede.decode.model import Model
from lede.decode.stops import StopStrings

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
    """A text that grows, up to the first of some stop strings, which is left out, or kept.

    What may be the beginning of one is held back. A text given token by token ends at the same token and character
    whatever the rounds were that wrote it.
    """

    def __init__(self, stops: Sequence[str], keep: bool = False):
        self._stops, self._keep = stops, keep
        self._held, self._shown = "", list[bool]()  # and whether each character of it is given out
        self.ended = False

    def add(self, piece: str, shown: bool = True, searched: bool = True) -> str:
        """What can be given out after `piece`, which is itself not given out unless `shown`.

        searched: whether a stop string that ends in it is one.
        """
        before, text = len(self._held), self._held + piece
        self._shown += [shown] * len(piece)
        places = ((text.find(stop, max(0, before - len(stop) + 1)), len(stop)) for stop in self._stops)
        found = [(at + length, at) for at, length in places if at >= 0] if searched else []
        if found:  # the first that is complete; of several, the longest
            self.ended, at = True, min(found)[0 if self._keep else 1]
        else:
            longest = min(max(map(len, self._stops), default=1) - 1, len(text))
            begun = (k for k in range(longest, 0, -1) if any(stop.startswith(text[-k:]) for stop in self._stops))
            at = len(text) - next(begun, 0)
        given, self._held = self._visible(text[:at]), text[at:]
        del self._shown[:at]
        return given

    def rest(self) -> str:
        """What was held back and began no stop string, as the text has ended."""
        return "" if self.ended else self._visible(self._held)

    def _visible(self, text: str) -> str:
        return "".join(character for character, shown in zip(text, self._shown, strict=False) if shown)


class Answer:
    """An answer's text, from its tokens, up to a stop string in it.

    It ends at the token at which `decode.stops` ends it. stops: the stop strings; the text has them if `keep`. Special
    tokens count as their text, which is part of the answer's with `special` alone. No stop string ends within the first
    `least` tokens. located: keep `offsets`.
    Raises ModelError without a tokenizer.
    """

    def __init__(
        self,
        model: Model,
        stops: tuple[str, ...] = (),
        keep: bool = False,
        special: bool = False,
        least: int = 0,
        located: bool = False,
    ):
        self._tokenizer, self._least, self._located = model.tokenizer, least, located
        self._decoder, self._until = Decoder(model.tokenizer, skip_special_tokens=not special), Until(stops, keep)
        self._stops = StopStrings(model, stops) if stops or located else None
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = self._waiting = 0  # characters of the text, and of its tokens that may still change
        self._between: list[tuple[int, str]] = []  # what is not shown, and the character before which it is
        self.tokens: list[int] = []
        self.offsets: list[int] = []  # for each token the character, counted from 0, that it begins or is a part of
        self.ended = False

    def add(self, token: int) -> str:
        """What can be given out after a token."""
        if self._located:
            self.offsets.append(self._length + self._waiting)
        self.tokens.append(token)
        text, searched = self._decoder.add([token]), len(self.tokens) > self._least
        if self._stops is not None:
            hidden = self._hidden(token, text)
            if hidden:
                self._between.append((self._length + self._waiting, hidden))
            waiting = self._waiting + len(self._utf8.decode(b"" if hidden and not text else self._stops.piece(token)))
            self._waiting = 0 if text else waiting
        given = self._feed(text, searched) if text or not self._waiting else ""
        if self._stops is not None and searched and not self._until.ended and self._stops(self.tokens):
            self.ended = True
            given += self._feed(self._decoder.peek())  # bytes that more of them could have followed
        self.ended = self.ended or self._until.ended
        return given

    def rest(self) -> str:
        """What is left to give out, as the text has ended."""
        given = "" if self.ended else self._feed(self._decoder.peek(), len(self.tokens) > self._least)
        return given + self._until.rest()

    def _feed(self, text: str, searched: bool = True) -> str:
        """What can be given out after `text`, and what is hidden between its characters."""
        given, until, done = "", self._until, 0
        for at, hidden in [*self._between, (self._length + len(text), "")]:
            part = text[done : max(done, at - self._length)]
            done += len(part)
            for piece, shown in ((part, True), (hidden, False)):
                given += "" if until.ended else until.add(piece, shown, searched)
        self._between.clear()
        self._length += len(text)
        return given

    def _hidden(self, token: int, text: str) -> str:
        """What a token adds to a text before what is shown of it: a special token's text, the first space of all."""
        assert self._stops is not None
        piece, first = self._stops.piece(token), self._length == 0
        if text:
            return " " if first and piece.startswith(b" ") and text[0] != " " else ""
        special = self._tokenizer.decode([token]) != self._tokenizer.decode([token], skip_special_tokens=True) == ""
        return piece.decode(errors="replace") if special or (first and piece == b" ") else ""
