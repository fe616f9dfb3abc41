"""From samples to one row per method: the paper's measures, tokens/s, speedups with intervals, and where time goes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lede.bench.measure import Sample, speed
from lede.bench.names import BASELINE, FOREIGN, LIBRARY
from lede.process import Sums
from lede.simulate.bootstrap import ratio_interval


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
    speedup_low: float  # 95 % bootstrap interval over groups of prompts
    speedup_high: float
    speedup_over_transformers: float | None
    # every token is the plain decoder's (of greedy text in fp32 also the library's); None: of another decoder's samples
    identical: bool | None
    prompt_share: float | None  # of all its time, reading prompts
    draft_share: float | None  # of decoding time, prompts not included: walks and drafts without decisions
    decision_share: float | None
    verify_share: float | None
    host_share: float | None  # the rest
    choose_share: float | None  # of drafting and verifying: making tokens of logits
    rouge_l: float | None
    parameters: dict[str, Any] | None  # what tuning set


def summarise(
    samples: Sequence[Sample],
    exact_library: bool,
    groups: Mapping[str, str] | None = None,
    rouge: Mapping[str, float | None] | None = None,
    parameters: Mapping[str, dict[str, Any]] | None = None,
    greedy: bool = True,
) -> list[Row]:
    """Rows in the order in which the methods first appear, over the prompts that all of them have.

    `exact_library`: in this dtype ours must equal the library's. `groups`: see `interval`; `rouge` and `parameters` are
    by method; `greedy` False: outputs are samples, for which other decoders have noise of their own.
    """
    by_method = by_name(samples)
    shared = sorted(set.intersection(*(set(runs) for runs in by_method.values())))
    runs = {method: [by_method[method][prompt] for prompt in shared] for method in by_method}
    reference, library = runs[BASELINE], runs.get(LIBRARY)
    plain = [s.token_ids for s in reference]
    if greedy and exact_library and library is not None and plain != [s.token_ids for s in library]:
        plain = []  # then no method has the tokens of both
    rows = []
    for method, mine in runs.items():
        low, high = interval(mine, reference, groups)
        row = Row(
            method,
            **Sums.total(mine).measures,
            speedup=speed(mine) / speed(reference),
            speedup_low=low,
            speedup_high=high,
            speedup_over_transformers=speed(mine) / speed(library) if library else None,
            identical=None if method in FOREIGN and not greedy else [s.token_ids for s in mine] == plain,
            rouge_l=(rouge or {}).get(method),
            parameters=(parameters or {}).get(method),
            **shares(mine),
        )
        rows.append(row)
    return rows


def by_name(samples: Sequence[Sample]) -> dict[str, dict[str, Sample]]:
    """{method: {prompt id: sample}}."""
    out: dict[str, dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        out[sample.method][sample.prompt_id] = sample
    return out


def shares(samples: Sequence[Sample]) -> dict[str, Any]:
    """Where the time of a method went; None where it is not known, as of the library's."""
    if not any(s.exits for s in samples):
        return dict.fromkeys(f"{part}_share" for part in ("prompt", "draft", "decision", "verify", "host", "choose"))
    parts = ("", "prompt_", "draft_", "decision_", "verify_", "choose_")
    whole, prompt, drafting, deciding, verifying, choosing = (
        sum(getattr(s, f"{part}seconds") for s in samples) for part in parts
    )
    decoding = whole - prompt
    return {
        "prompt_share": prompt / whole,
        "draft_share": (drafting - deciding) / decoding,
        "decision_share": deciding / decoding,
        "verify_share": verifying / decoding,
        "host_share": (decoding - drafting - verifying) / decoding,
        "choose_share": choosing / decoding,
    }


def interval(
    samples: Sequence[Sample], baseline: Sequence[Sample], groups: Mapping[str, str] | None = None
) -> tuple[float, float]:
    """95 % bootstrap interval of the ratio of speeds, paired: both lists are of the same prompts in the same order.

    What is resampled are groups, by prompt id (a module, an article, a conversation): texts of one are alike. A prompt
    without one is a group of its own.
    """
    above = [(len(s.token_ids), b.seconds) for s, b in zip(samples, baseline, strict=True)]
    below = [(s.seconds, len(b.token_ids)) for s, b in zip(samples, baseline, strict=True)]
    return ratio_interval(above, below, [(groups or {}).get(s.prompt_id, s.prompt_id) for s in samples])


def paired(
    samples: Sequence[Sample], method: str, other: str, groups: Mapping[str, str] | None = None
) -> tuple[float, float, float]:
    """How much faster `method` is than `other`, with the interval of that ratio itself (tighter than two speedups')."""
    runs = by_name(samples)
    shared = sorted(runs[method].keys() & runs[other].keys())
    a, b = [runs[method][p] for p in shared], [runs[other][p] for p in shared]
    return (speed(a) / speed(b), *interval(a, b, groups))
