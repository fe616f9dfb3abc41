"""The n-gram index against a search through the whole text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from decode.lookup import LONGEST, Guess, Lookup
from tests.models import FIXED


def search(tokens: list[int]) -> Guess | None:
    """What follows the last earlier occurrence of the longest n-gram that ends the text, by looking everywhere."""
    for n in range(min(LONGEST, len(tokens) - 1), 0, -1):
        tail = tokens[-n:]
        followers = [tokens[i + n] for i in range(len(tokens) - n) if tokens[i : i + n] == tail]
        if followers:
            return Guess(followers[-1], n, followers.count(followers[-1]) / len(followers))
    return None


@settings(FIXED, max_examples=200)
@given(st.integers(1, 4).flatmap(lambda most: st.lists(st.integers(0, most), max_size=40)))
def test_a_guess_is_what_a_search_finds(tokens):
    assert Lookup(tokens).guess() == search(tokens)


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
        assert lookup.tokens == tokens
        assert len(lookup) == len(tokens)
        assert lookup.guess() == search(tokens)


def test_the_last_occurrence_of_the_longest_match_wins():
    assert Lookup([1, 2, 3, 9, 2, 7, 1, 2]).guess() == Guess(3, 2, 1.0)
    assert Lookup([2, 3, 2, 4, 2, 4, 5, 2]).guess() == Guess(4, 1, 2 / 3)
    assert Lookup([1, 2, 3]).guess() is None
    assert Lookup().guess() is None
