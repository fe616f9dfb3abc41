"""Layer 0: the n-gram index of a text, kept up to date token by token at a cost that does not grow with the text.

A guess is what followed the last earlier occurrence of the longest n-gram (n ≤ 8) that ends the text: prompt lookup.
It is a function of the tokens alone, so what layer 0 would have drafted can be told from any dataset's episodes.
"""

from collections.abc import Iterable
from typing import NamedTuple

LONGEST = 8


class Guess(NamedTuple):
    """The lookup's next token, the length of the match, and the share of its occurrences with the same follower."""

    token: int
    length: int
    agreement: float


class _Followers:
    """What came after one n-gram so far: the last follower, and how often each was one."""

    __slots__ = ("counts", "last", "total")

    def __init__(self) -> None:
        self.last = -1
        self.total = 0
        self.counts: dict[int, int] = {}


class Lookup:
    """The index over a growing text; `truncate` takes tokens back, so that drafts can be tried on it."""

    def __init__(self, tokens: Iterable[int] = ()):
        self.tokens: list[int] = []
        self._grams: dict[tuple[int, ...], _Followers] = {}
        self._undo: list[list[tuple[_Followers, int]]] = []  # per token: the n-grams it followed, and their last before
        for token in tokens:
            self.push(token)

    def __len__(self) -> int:
        return len(self.tokens)

    def push(self, token: int) -> None:
        """Append one token."""
        tokens, changed = self.tokens, []
        end = len(tokens)
        for n in range(1, min(LONGEST, end) + 1):
            gram = tuple(tokens[end - n : end])
            followers = self._grams.get(gram)
            if followers is None:
                followers = self._grams[gram] = _Followers()
            changed.append((followers, followers.last))
            followers.last = token
            followers.total += 1
            followers.counts[token] = followers.counts.get(token, 0) + 1
        self._undo.append(changed)
        tokens.append(token)

    def truncate(self, length: int) -> None:
        """Take back the tokens after the first `length`, as if they had never been pushed."""
        while len(self.tokens) > length:
            token = self.tokens.pop()
            for followers, last in self._undo.pop():
                followers.last = last
                followers.total -= 1
                followers.counts[token] -= 1

    def guess(self) -> Guess | None:
        """What the text so far says comes next; None where its last token has not occurred before."""
        tokens, best = self.tokens, None
        end = len(tokens)
        # an n-gram that occurred before contains shorter ones that did: stop at the first length that did not
        for n in range(1, min(LONGEST, end) + 1):
            followers = self._grams.get(tuple(tokens[end - n : end]))
            if followers is None or followers.total == 0:
                break
            best = followers
            length = n
        if best is None:
            return None
        return Guess(best.last, length, best.counts[best.last] / best.total)
