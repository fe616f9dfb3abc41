"""From samples to one row a method: the paper's measures, tokens/s, and speedups with intervals over prompts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.measure import Sample

RESAMPLES = 2000
BASELINE, LIBRARY = "autoregressive", "transformers"


@dataclass(frozen=True)
class Row:
    """One method over all prompts; names as in `lede bench --json`."""

    method: str
    exit_layer: float | None  # E, over the rounds that drafted
    draft_length: float | None  # d
    acceptance: float | None  # accepted / drafted
    tokens_per_round: float | None
    tokens_per_s: float
    speedup: float  # Σtokens/Σseconds over that of our autoregressive decoding
    speedup_low: float  # 95 % bootstrap interval over prompts
    speedup_high: float
    speedup_over_transformers: float | None
    identical: bool  # every token is the plain decoder's (and in fp32 also the library's)


def summarise(samples: Sequence[Sample], exact_library: bool) -> list[Row]:
    """Rows in the order in which the methods first appear. `exact_library`: in this dtype ours must equal it."""
    by_method: dict[str, dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        by_method[sample.method][sample.prompt_id] = sample
    shared = sorted(set.intersection(*(set(runs) for runs in by_method.values())))
    reference = [by_method[BASELINE][p].token_ids for p in shared]
    library = by_method.get(LIBRARY)
    rows = []
    for method, runs in by_method.items():
        mine = [runs[p] for p in shared]
        same = [s.token_ids == r for s, r in zip(mine, reference, strict=True)]
        if exact_library and library is not None:
            same += [s.token_ids == library[p].token_ids for s, p in zip(mine, shared, strict=True)]
        low, high = interval(mine, [by_method[BASELINE][p] for p in shared])
        rows.append(
            Row(
                method,
                exit_layer=mean(mine, "exit_layers", "drafting_rounds"),
                draft_length=mean(mine, "drafted", "drafting_rounds"),
                acceptance=mean(mine, "accepted", "drafted"),
                tokens_per_round=sum(len(s.token_ids) for s in mine) / total
                if (total := sum(s.rounds for s in mine))
                else None,
                tokens_per_s=speed(mine),
                speedup=speed(mine) / speed([by_method[BASELINE][p] for p in shared]),
                speedup_low=low,
                speedup_high=high,
                speedup_over_transformers=speed(mine) / speed([library[p] for p in shared]) if library else None,
                identical=all(same),
            )
        )
    return rows


def differences(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Prompts on which a method's tokens are not the plain decoder's, with the first position that differs."""
    reference = {s.prompt_id: s.token_ids for s in samples if s.method == BASELINE}
    found = []
    for s in samples:
        theirs = reference.get(s.prompt_id)
        if theirs is not None and s.token_ids != theirs:
            pairs = zip(s.token_ids, theirs, strict=False)
            first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(s.token_ids), len(theirs)))
            found.append({"method": s.method, "prompt": s.prompt_id, "position": first})
    return found


def speed(samples: Sequence[Sample]) -> float:
    """Σtokens/Σseconds."""
    return sum(len(s.token_ids) for s in samples) / sum(s.seconds for s in samples)


def mean(samples: Sequence[Sample], numerator: str, denominator: str) -> float | None:
    """Ratio of two sums; None for nothing over nothing."""
    below = sum(getattr(s, denominator) for s in samples)
    return sum(getattr(s, numerator) for s in samples) / below if below else None


def interval(samples: Sequence[Sample], baseline: Sequence[Sample]) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of speeds, prompts resampled in pairs; both lists are in the same order."""
    counts = np.array(
        [[len(s.token_ids), s.seconds, len(b.token_ids), b.seconds] for s, b in zip(samples, baseline, strict=True)]
    )
    draws = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    sums = counts[draws].sum(1)
    ratios = (sums[:, 0] / sums[:, 1]) / (sums[:, 2] / sums[:, 3])
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def paired(samples: Sequence[Sample], method: str, other: str) -> tuple[float, float, float]:
    """How much faster `method` is than `other`, with the interval of that ratio itself (tighter than two speedups')."""
    runs: dict[str, dict[str, Sample]] = {method: {}, other: {}}
    for s in samples:
        if s.method in runs:
            runs[s.method][s.prompt_id] = s
    shared = sorted(runs[method].keys() & runs[other].keys())
    a, b = [runs[method][p] for p in shared], [runs[other][p] for p in shared]
    return (speed(a) / speed(b), *interval(a, b))
