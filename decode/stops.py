"""Stop strings: whether a text has just been ended by one, as `transformers.StopStringCriteria` decides it.

A text ends at the first token in which an occurrence of a stop string ends; the occurrence may begin in any earlier
token, the prompt's too. What a token adds to the text is taken behind other text, and in bytes, so that half a
character is found as well.
"""

import re

from lede.decode.errors import ModelError
from lede.decode.model import Model

PREFIX = "abcdef"  # text that a token is decoded behind: the first of a text may lose its space
UNKNOWN = b"\xff"  # an id that the tokenizer has no token for: no UTF-8 text contains it
# GPT-2's byte-level alphabet: a printable byte stands for itself, the others for the characters from 256 on
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = {chr(byte): byte for byte in PRINTABLE}
BYTES |= {chr(256 + i): byte for i, byte in enumerate(sorted(set(range(256)) - set(PRINTABLE)))}


class StopStrings:
    """Called with the text so far after each token."""

    def __init__(self, model: Model, strings: tuple[str, ...]):
        backend = getattr(model.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError("stop strings need the model's tokenizer, and its folder has none (as tokenizer.json)")
        self._token, self._strings = backend.id_to_token, [string.encode() for string in strings]
        self._pieces: dict[int, bytes] = {}
        self._before: list[str] = backend.encode(PREFIX, add_special_tokens=False).tokens
        self._text = " ".join if backend.decoder is None else backend.decoder.decode
        self._kind = b"" if backend.decoder is None else bytes(backend.decoder.__getstate__())

    def __call__(self, tokens: list[int]) -> bool:
        """Whether a stop string ends within the last token."""
        last = self.piece(tokens[-1])
        return any(self._ends(stop, last[:end], tokens) for stop in self._strings for end in range(1, len(last) + 1))

    def _ends(self, stop: bytes, piece: bytes, tokens: list[int]) -> bool:
        """Whether the text, with `piece` in the place of its last token, ends in `stop`."""
        left, position = len(stop), len(tokens) - 1
        while len(piece) < left:
            if position == 0 or not stop.endswith(piece, 0, left):
                return False
            left -= len(piece)
            position -= 1
            piece = self.piece(tokens[position])
        return piece.endswith(stop[:left])

    def piece(self, token: int) -> bytes:
        """What a token adds to a text."""
        if token not in self._pieces:
            self._pieces[token] = self._decoded(self._token(token))
        return self._pieces[token]

    def _decoded(self, token: str | None) -> bytes:
        if token is None:
            return UNKNOWN
        if b"ByteFallback" in self._kind:
            if re.fullmatch("<0x[0-9a-fA-F]{2}>", token):
                return bytes([int(token[3:5], 16)])
        elif b"ByteLevel" in self._kind and all(character in BYTES for character in token):
            return bytes(BYTES[character] for character in token)
        text: str = self._text([*self._before, token])
        return text[text.index(PREFIX) + len(PREFIX) :].encode()
