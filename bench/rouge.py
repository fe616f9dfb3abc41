"""ROUGE-L of what was written against a reference, as LayerSkip's benchmark, on which the paper's is built, has it."""

from functools import cache


@cache  # methods that write the same text have the same score
def rouge_l(text: str, reference: str) -> float:
    """The F-measure, 0…1, of the longest common subsequence of lower-cased words, as white space parts them."""
    ours, theirs = text.lower().split(), reference.lower().split()
    common = [0] * (len(theirs) + 1)  # its length with the first so many of their words
    for word in ours:
        diagonal = 0
        for i, other in enumerate(theirs, 1):
            longest = diagonal + 1 if word == other else max(common[i], common[i - 1])
            diagonal, common[i] = common[i], longest
    return 2 * common[-1] / (len(ours) + len(theirs)) if ours or theirs else 0.0
