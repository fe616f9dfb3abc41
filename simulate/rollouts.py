"""What layer 0 drafts behind a wrong draft of its own: a function of the tokens alone, so that replay knows it exactly.

A copy that went wrong does not look wrong: its match grows with every token that it drafts, while on the true text the
next match would be short. A rule that is judged on the true text's states there seems to stop where it would draft on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lede.decode.lookup import Guess, Lookup
from lede.decode.noise import gumbel
from lede.decode.state import rounded
from lede.simulate.costs import MAX_ROWS

BEHIND = MAX_ROWS - 2  # drafts that a round has room for behind its first
NOTHING = Guess(-1, 0, 0.0)


@dataclass(frozen=True)
class Copies:
    """The drafts behind every wrong guess of N texts, M of them.

    number: (N, T) of the wrong guess made at that position, -1 where there is none. tokens: (M, 30) the drafts behind
    it. states: (M, 30, 5) lookup_length, lookup_agreement, lookup_match, token_logp (0), noise where each is drafted.
    """

    number: NDArray[np.int64]
    tokens: NDArray[np.int32]
    states: NDArray[np.float32]

    def seen(self, text: NDArray[np.int64], wrong: NDArray[np.int64], behind: NDArray[np.int64]) -> NDArray[np.float32]:
        """(…, 5) what is seen `behind` >= 1 drafts behind a wrong one at `wrong` of `text`; all three of one shape."""
        return self.states[self.number[text, wrong], behind - 1]


@dataclass(frozen=True)
class Seeds:
    """Of N texts' noise: seeds (N,) uint64, which say nothing where a text is not `sampled` (N,)."""

    seeds: NDArray[np.uint64]
    sampled: NDArray[np.bool_]

    def noise(
        self, text: NDArray[np.int64], position: NDArray[np.int64], token: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Noise of tokens at positions in prompt and output, as states have it; 0 in greedy texts and for token -1.

        The arrays broadcast.
        """
        at = (torch.from_numpy(np.asarray(x, np.int64)) for x in (self.seeds.view(np.int64)[text], position, token))
        known: NDArray[Any] = rounded(gumbel(*at)).numpy()
        return np.where(self.sampled[text] & (token >= 0), known, 0.0).astype(np.float32)


def guesses_of(
    prompts: Sequence[Sequence[int]], targets: NDArray[np.int32], lengths: NDArray[np.int64], seeds: Seeds
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Layer 0 at every position of N texts: its drafts (N, T), -1 for none, and what is seen there (N, T, 5).

    prompts: their tokens; targets: (N, T) the tokens behind each prompt, `lengths` of them. States as in Copies.
    """
    drafts, states = np.full(targets.shape, -1, np.int32), np.zeros((*targets.shape, 5), np.float32)
    for n, prompt in enumerate(prompts):
        lookup = Lookup(prompt)
        for t, target in enumerate(targets[n, : lengths[n]].tolist()):
            if (guess := lookup.guess()) is not None:
                drafts[n, t], states[n, t, :3] = guess.token, (guess.length, guess.agreement, 1.0)
            lookup.push(target)
    first = np.array([[len(prompt)] for prompt in prompts], np.int64).reshape(-1, 1)
    states[..., 4] = seeds.noise(np.arange(len(prompts))[:, None], first + np.arange(targets.shape[1]), drafts)
    return drafts, states


def copies_of(
    prompts: Sequence[Sequence[int]],
    targets: NDArray[np.int32],
    lengths: NDArray[np.int64],
    drafts: NDArray[np.int32],
    seeds: Seeds,
) -> Copies:
    """What is behind those of layer 0's `drafts` (N, T; -1 for none) that are wrong; the others as in `guesses_of`."""
    number = np.full(targets.shape, -1, np.int64)
    chains: list[list[Guess]] = []
    places: list[tuple[int, int]] = []  # of each: its text, and the position behind the wrong draft
    for n, prompt in enumerate(prompts):
        lookup = Lookup(prompt)
        pairs = zip(targets[n, : lengths[n]].tolist(), drafts[n].tolist(), strict=False)
        for t, (target, draft) in enumerate(pairs):
            if draft not in (-1, target):
                number[n, t] = len(chains)
                chains.append(_behind(lookup, draft))
                places.append((n, len(prompt) + t + 1))
            lookup.push(target)
    found = np.array(chains, np.float64).reshape(-1, BEHIND, 3)
    tokens = found[..., 0].astype(np.int32)
    states = np.zeros((*tokens.shape, 5), np.float32)
    states[..., :2], states[..., 2] = found[..., 1:], found[..., 1] > 0
    text, first = np.array(places, np.int64).reshape(-1, 2, 1).swapaxes(0, 1)
    states[..., 4] = seeds.noise(text, first + np.arange(BEHIND), tokens)
    return Copies(number, tokens, states)


def _behind(lookup: Lookup, token: int) -> list[Guess]:
    """What is guessed behind `token`, which is a guess itself, and behind each of these in turn."""
    lookup.push(token)
    found = lookup.copy(BEHIND)  # all of them: a guess has occurred before, so that something follows it
    lookup.truncate(len(lookup) - 1)
    return found + [NOTHING] * (BEHIND - len(found))
