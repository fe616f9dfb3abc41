"""A draft vocabulary from what was written: its most frequent tokens, which are nearly all that will be written."""

import numpy as np

from lede.collect.errors import PromptError
from lede.replay.reader import Dataset
from lede.replay.split import episode_splits


def frequent_tokens(dataset: Dataset, count: int) -> tuple[list[int], float]:
    """Ids of the `count` most frequent output tokens of a dataset's training texts, ascending; and their share of all.

    Of tokens that are equally frequent, or were never written, the lower ids: tokenizers number what is frequent first.
    Raises PromptError where there is no training text.
    """
    splits = episode_splits(dataset)
    rows, episodes = dataset.read("episodes", ["output_tokens"])
    texts = rows["output_tokens"].filter(np.isin(episodes, splits.numbers[splits.split == "train"]))
    counts = np.bincount(texts.combine_chunks().flatten(), minlength=dataset.header["model"]["vocab"])
    if not counts.any():
        raise PromptError(f"{dataset.path} has no training texts whose tokens could be counted: collect more")
    chosen = np.sort(np.argsort(-counts, kind="stable")[:count])
    return chosen.tolist(), float(counts[chosen].sum() / counts.sum())
