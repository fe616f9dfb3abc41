"""The n-gram index against a search through the whole text."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lede.decode.backends.compile import library
from lede.decode.lookup import FARTHEST, LONGEST, Guess, Lookup
from lede.decode.lookup import _copy as plain_copy
from tests.models import FIXED


def search(tokens: list[int]) -> Guess | None:
    """What follows the last earlier occurrence of the longest n-gram that ends the text, by looking everywhere."""
    for n in range(min(LONGEST, len(tokens) - 1), 0, -1):
        tail = tokens[-n:]
        places = [i + n for i in range(len(tokens) - n) if tokens[i : i + n] == tail]
        if places:
            followers = [tokens[place] for place in places]
            while LONGEST <= n < min(FARTHEST, places[-1]) and tokens[places[-1] - n - 1] == tokens[-n - 1]:
                n += 1
            return Guess(followers[-1], n, followers.count(followers[-1]) / len(followers))
    return None


@settings(FIXED, max_examples=200)
@given(st.integers(1, 4).flatmap(lambda most: st.lists(st.integers(0, most), max_size=40)))
def test_a_guess_is_what_a_search_finds(tokens):
    assert Lookup(tokens).guess() == search(tokens)


@settings(FIXED, max_examples=50)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 60), st.integers(0, 2))
def test_a_long_match_is_followed_far_back(start, again, other):
    tokens = [*start, other, *start * again][:150]
    lookup = Lookup()
    for n, token in enumerate(tokens):
        lookup.push(token)
        assert lookup.guess() == search(tokens[: n + 1])


@settings(FIXED, max_examples=100)
@given(st.integers(1, 4).flatmap(lambda most: st.lists(st.integers(0, most), max_size=40)), st.integers(0, 35))
def test_copies_are_guesses_in_a_row(tokens, most):
    lookup, text, expected = Lookup(tokens), list(tokens), []
    while len(expected) < most and (guess := search(text)) is not None:
        expected.append(guess)
        text.append(guess.token)
    assert lookup.copy(most) == expected == plain_copy(list(tokens), most)
    assert len(lookup) == len(tokens)
    assert lookup.guess() == search(tokens)


def test_there_is_room_for_any_text():
    tokens = np.random.default_rng(0).integers(50, size=5000).tolist()
    lookup = Lookup(tokens[:7])
    lookup.extend(tokens[7:4000])
    for token in tokens[4000:]:
        lookup.push(token)
    assert lookup.guess() == search(tokens)
    assert len(lookup) == 5000
    assert lookup.copy(500) == plain_copy(tokens, 500)


@settings(FIXED, max_examples=200)
@given(st.lists(st.one_of(st.integers(0, 3), st.integers(-25, -1)), max_size=60))
def test_tokens_can_be_taken_back_at_any_time(steps):
    """A number from 0 is pushed, a negative one takes back so many tokens."""
    lookup, tokens = Lookup(), []
    for step in steps:
        if step >= 0:
            lookup.push(step)
            tokens.append(step)
        else:
            tokens = tokens[:step]
            lookup.truncate(len(tokens))
        assert len(lookup) == len(tokens)
        assert lookup.guess() == search(tokens)


def test_the_last_occurrence_of_the_longest_match_wins():
    assert Lookup([1, 2, 3, 9, 2, 7, 1, 2]).guess() == Guess(3, 2, 1.0)
    assert Lookup([2, 3, 2, 4, 2, 4, 5, 2]).guess() == Guess(4, 1, 2 / 3)
    assert Lookup([1, 2, 3]).guess() is None
    assert Lookup().guess() is None


def test_it_is_compiled_where_there_is_a_compiler():
    """Or the search would be done in Python for years before anybody noticed."""
    if library("native") is not None:
        assert library("lookup") is not None
