"""Layer 0: what the text so far says comes next.

A guess is what followed the last earlier occurrence of the longest n-gram (n ≤ 8) that ends the text: prompt lookup.
How far the two agree beyond that, up to 64 tokens back, says how long the copy will hold. The whole text is searched
each time: in C (lookup.c) a microsecond for 500 tokens, 3 for 4000; without a compiler it is done here.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lede.decode.backends.compile import library

LONGEST = 8  # of the n-grams that are looked up
FARTHEST = 64  # tokens back that a match is followed
USUAL = 32  # guesses in a row; for more, room is made
ROOM = 1024  # tokens to make room for


class Guess(NamedTuple):
    """The lookup's next token, how long the match is, and the share of the n-gram's occurrences that it followed."""

    token: int
    length: int
    agreement: float


class Lookup:
    """A growing text to copy from; `truncate` takes tokens back, so that drafts can be tried on it."""

    def __init__(self, tokens: Sequence[int] = ()):
        self._length, self._search = 0, _compiled()
        self._keep(np.empty(len(tokens) + ROOM, np.int32))
        self._expect(USUAL)
        self.extend(tokens)

    def __len__(self) -> int:
        return self._length

    def push(self, token: int) -> None:
        """Append one token."""
        self.extend((token,))

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens."""
        self._make_room(len(tokens))
        self._tokens[self._length : self._length + len(tokens)] = tokens
        self._length += len(tokens)

    def truncate(self, length: int) -> None:
        """Take back the tokens after the first `length`."""
        self._length = min(length, self._length)

    def guess(self) -> Guess | None:
        """What the text so far says comes next; None where its last token has not occurred before."""
        return next(iter(self.copy(1)), None)

    def copy(self, most: int) -> list[Guess]:
        """Up to `most` guesses, each as if those before it had been pushed; none where there is no first."""
        if self._search is None:
            return _copy(self._tokens[: self._length].tolist(), most)
        self._make_room(most)
        if most > len(self._found):
            self._expect(most)
        count = self._search(self._tokens_at, self._length, most, LONGEST, FARTHEST, self._found_at)
        return [Guess(token, length, agreed / times) for token, length, times, agreed in self._found[:count].tolist()]

    def _make_room(self, tokens: int) -> None:
        if self._length + tokens > len(self._tokens):
            longer = np.empty(2 * len(self._tokens) + tokens, np.int32)
            longer[: self._length] = self._tokens[: self._length]
            self._keep(longer)

    def _expect(self, guesses: int) -> None:
        self._found = np.empty((guesses, 4), np.int32)
        self._found_at = self._found.ctypes.data

    def _keep(self, tokens: np.ndarray) -> None:
        self._tokens, self._tokens_at = tokens, tokens.ctypes.data


@functools.cache
def _compiled() -> Any:
    """lookup.c, or None where there is no C compiler."""
    loaded = library("lookup")
    if loaded is None:
        return None
    loaded.lede_copy.restype = ctypes.c_int32
    loaded.lede_copy.argtypes = (ctypes.c_void_p, *(ctypes.c_int32,) * 4, ctypes.c_void_p)
    return loaded.lede_copy


def _copy(tokens: list[int], most: int) -> list[Guess]:
    """Lookup.copy without a compiler."""
    found: list[Guess] = []
    while len(found) < most:
        places = [place for place in range(1, len(tokens)) if tokens[place - 1] == tokens[-1]]
        if not places:
            break
        matches = [_same(tokens, place, LONGEST) for place in places]
        best = max(matches)
        places = [place for place, length in zip(places, matches, strict=True) if length == best]
        token, length = tokens[places[-1]], best if best < LONGEST else _same(tokens, places[-1], FARTHEST)
        found.append(Guess(token, length, sum(tokens[place] == token for place in places) / len(places)))
        tokens.append(token)
    return found


def _same(tokens: list[int], place: int, most: int) -> int:
    """For how many tokens the text before `place` is the text's end."""
    n = 1
    while n < min(most, place) and tokens[place - n - 1] == tokens[-n - 1]:
        n += 1
    return n
