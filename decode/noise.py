"""The one source of randomness of sampled text: Gumbel noise as a pure function of (seed, position, token).

Drafter-invariant sampling (Daliri, Musco, Suresh, arXiv 2408.07978): the token at a position is the one with the
highest log p + noise, and a draft for that position is the one with the highest log q + the *same* noise. So whoever
drafts, and whatever is drafted, a seed's text is one text, and verification asks what it asks in greedy decoding: are
they equal?

The noise is counter-based: nothing is drawn in turn, so it is the same on every device, for any number of threads and
in blocks of any shape. The generator is SplitMix64 (Steele, Lea, Flood 2014, as in Java's SplittableRandom), from a
state of its own for each seed and position. `choose.c` has the same few lines.
"""

import torch
from torch import Tensor

GAMMA, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def signed(number: int) -> int:
    """A number modulo 2^64, as int64 has it."""
    return (number + 2**63) % 2**64 - 2**63


def gumbel(seed: int | Tensor, position: int | Tensor, token: Tensor) -> Tensor:
    """Standard Gumbel noise, fp64, of tokens of a text: int64 tensors of shapes that broadcast; a seed is modulo 2^64.

    `position` is the token's own, counted from the first of the prompt.
    """
    seed, position = (
        x if isinstance(x, Tensor) else torch.tensor(signed(x), device=token.device) for x in (seed, position)
    )
    stream = _mix(_mix(seed) + position * signed(GAMMA))
    bits = _shifted(_mix(stream + token * signed(GAMMA)), 11)
    uniform = (bits.double() + 0.5) * 2.0**-53  # small where the noise is large, so that it is exact there
    return -torch.log(-torch.log1p(-uniform))


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's output function, of int64."""
    x = (x ^ _shifted(x, 30)) * signed(FIRST)
    x = (x ^ _shifted(x, 27)) * signed(SECOND)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits, of the unsigned number."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
