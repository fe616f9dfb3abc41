"""Kept caches: what a text has in common with an earlier one, from its beginning, need not be read again.

Keys and values of a position depend on the tokens up to it alone, so the text stays what it would be with a cache of
its own. To the bit where a row's bits do not depend on the rows beside it (the native backend); elsewhere as far as
verification in blocks is plain decoding.
"""

from typing import Any


class Prefixes:
    """The caches of a model's last texts. `Model.prefixes` is None or one of these, for all that is decoded with it."""

    def __init__(self, megabytes: float = 512, texts: int = 16):
        """How much to keep beside the last text, in 2^20 bytes and in number: the oldest are dropped first."""
        self._most, self._texts = megabytes * 2**20, texts
        self._kept: list[tuple[list[int], Any]] = []  # (text, cache), the last text last

    @property
    def nbytes(self) -> int:
        """Bytes of the kept keys and values, those of the last text included."""
        return sum(part.nbytes for _, cache in self._kept for part in cache.store)

    def clear(self) -> None:
        """Keep nothing of what there is."""
        self._kept = []

    def carry(self, text: list[int], cache: Any) -> int:
        """Copy into the new cache of `text` what an earlier text has of it; the number of positions copied.

        The last token's is never one of them: a round begins with it.
        """
        if not self._kept:
            return 0
        kept, earlier = max(self._kept, key=lambda one: common(one[0], text))
        # a text's last token has not gone through all layers yet
        length = min(common(kept, text), len(kept) - 1, len(text) - 1)
        # some rotary embeddings turn by other angles behind a longer prompt
        same = (earlier.rotation[:length] == cache.rotation[:length]).all(1)
        length = int(same.long().cumprod(0).sum())
        if length:
            cache.take(earlier, length)
        return length

    def keep(self, text: list[int], cache: Any) -> None:
        """Keep the cache of a text that has been read, but for its last token; `text` grows as it is written."""
        later = [*(one[0] for one in self._kept[-1:]), text]  # the last has grown since it came
        self._kept = [
            (old, held)
            for old, held in self._kept
            if not any(common(old, new) >= len(old) - 1 for new in later if new is not old)
        ]
        while self._kept and (self.nbytes > self._most or len(self._kept) > self._texts):
            del self._kept[0]
        self._kept.append((text, cache))


def common(one: list[int], other: list[int]) -> int:
    """How many tokens two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
