"""Layer 0: the n-gram index of a text, kept up to date token by token.

A guess is what followed the last earlier occurrence of the longest n-gram (n ≤ 8) that ends the text: prompt lookup.
It is a function of the tokens alone, so what layer 0 would have drafted can be told from any dataset's episodes.

The index is a tree of contexts, read backwards: a node n steps under the root is an n-gram, its children are the same
n-gram with one more token before it. Most n-grams occur once, so a node gets children only when it occurs again: a new
token costs a step for each token of its match, and nothing grows with the text but the few lists that are counted.
"""

from collections.abc import Iterable
from typing import NamedTuple

LONGEST = 8


class Guess(NamedTuple):
    """The lookup's next token, the length of the match, and the share of its occurrences with the same follower."""

    token: int
    length: int
    agreement: float


class _Context:
    """One n-gram: what followed each of its occurrences, in order, and where the first of them was followed."""

    __slots__ = ("first", "followers", "longer")

    def __init__(self, follower: int, first: int):
        self.followers = [follower]
        self.first = first  # index of `follower` in the text
        self.longer: dict[int, _Context] | None = None  # by the token before; None while it has occurred only once


class Lookup:
    """The index over a growing text; `truncate` takes tokens back, so that drafts can be tried on it."""

    def __init__(self, tokens: Iterable[int] = ()):
        self.tokens: list[int] = []
        self._root: dict[int, _Context] = {}
        self._told: list[list[_Context]] = []  # for each token, the contexts that it is a follower of
        self._matches: list[_Context] | None = None  # of the text as it is, shortest first; None: not looked up yet
        for token in tokens:
            self.push(token)

    def __len__(self) -> int:
        return len(self.tokens)

    def push(self, token: int) -> None:
        """Append one token."""
        tokens = self.tokens
        matches = self._match() if self._matches is None else self._matches
        for context in matches:
            context.followers.append(token)
        end, n = len(tokens), len(matches)
        if n < LONGEST and n < end:  # the shortest n-gram that is new; longer ones are made when it occurs again
            siblings = matches[-1].longer if matches else self._root
            assert siblings is not None
            siblings[tokens[end - n - 1]] = context = _Context(token, end)
            matches.append(context)
        self._told.append(matches)
        tokens.append(token)
        self._matches = None

    def truncate(self, length: int) -> None:
        """Take back the tokens after the first `length`, as if they had never been pushed."""
        while len(self.tokens) > length:
            self.tokens.pop()
            for context in self._told.pop():
                context.followers.pop()  # a context without followers counts as one that never occurred
            self._matches = None

    def guess(self) -> Guess | None:
        """What the text so far says comes next; None where its last token has not occurred before."""
        matches = self._match() if self._matches is None else self._matches
        if not matches:
            return None
        followers = matches[-1].followers
        token = followers[-1]
        return Guess(token, len(matches), followers.count(token) / len(followers))

    def _match(self) -> list[_Context]:
        """The contexts that end the text and occurred before, from the shortest to the longest."""
        tokens, matches, siblings = self.tokens, [], self._root
        end = len(tokens)
        for n in range(1, min(LONGEST, end) + 1):
            context = siblings.get(tokens[end - n])
            if context is None or not context.followers:
                break
            matches.append(context)
            if n == LONGEST:
                break
            if context.longer is None:
                self._lengthen(context, n)
            siblings = context.longer  # type: ignore[assignment]
        self._matches = matches
        return matches

    def _lengthen(self, context: _Context, n: int) -> None:
        """Give a context of `n` tokens that has occurred once its child: the same occurrence with the token before."""
        context.longer = {}
        first = context.first
        if first > n:
            child = context.longer[self.tokens[first - n - 1]] = _Context(self.tokens[first], first)
            self._told[first].append(child)  # taken back together with its follower
