"""ROUGE-L: LayerSkip's tokenization, checked against a subsequence found by brute force."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

from lede.bench.rouge import rouge_l

WORDS = st.lists(st.sampled_from(["a", "B", "b", "c,", "c"]), max_size=6)


def longest_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, over all subsequences."""

    def all_of(words: list[str]) -> set[tuple[str, ...]]:
        return {chosen for n in range(len(words) + 1) for chosen in combinations(words, n)}

    return max(map(len, all_of(a) & all_of(b)))


@settings(deadline=None)  # the first call imports the package
@given(WORDS, WORDS)
def test_the_f_measure_of_the_longest_common_subsequence_of_lower_cased_words(a: list[str], b: list[str]) -> None:
    length = longest_common([w.lower() for w in a], [w.lower() for w in b])
    expected = 2 * length / (len(a) + len(b)) if a or b else 0.0  # F of length/len(a) and length/len(b)
    assert rouge_l(" ".join(a), " \n".join(b)) == approx(expected)


def test_punctuation_stays_and_words_are_not_stemmed() -> None:
    assert rouge_l("the cats, sleep", "The cats sleep") == approx(2 / 3)
    assert rouge_l("cat", "cats") == 0
