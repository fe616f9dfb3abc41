"""ROUGE-L of what was written against the references, as LayerSkip's benchmark, on which the paper's is built, has it:
the F-measure of lower-cased texts split at white space. The rouge-score package's own tokenizer would drop punctuation.
"""

from collections.abc import Sequence


class Words:
    """LayerSkip's tokenizer: lower-cased words, as white space parts them."""

    def tokenize(self, text: str) -> list[str]:
        return text.lower().split()


def rouge_l(texts: Sequence[str], references: Sequence[str | None]) -> float | None:
    """The mean ROUGE-L F-measure, 0…1, over the texts that have a reference (None: it has none).

    None where no text has one, or where the rouge-score package is not installed.
    """
    pairs = [(t, r) for t, r in zip(texts, references, strict=True) if r is not None]
    if not pairs:
        return None
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError:
        return None
    scorer = RougeScorer(["rougeL"], tokenizer=Words())
    return sum(scorer.score(reference, text)["rougeL"].fmeasure for text, reference in pairs) / len(pairs)
