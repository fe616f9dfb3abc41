"""A bench's numbers from samples made by hand."""

import numpy as np
import pytest

from lede.bench.names import BASELINE, LIBRARY
from lede.bench.summary import interval, paired, summarise
from tests.bench.samples import TEXT, plain, sample


def test_a_row_is_sums_over_prompts_not_means_of_ratios():
    samples = [
        plain(BASELINE, "a", seconds=2.0),
        plain(BASELINE, "b", tokens=TEXT * 3, seconds=6.0),
        sample("lede", "a", seconds=1.0),
        sample(
            "lede",
            "b",
            tokens=TEXT * 3,
            seconds=1.0,
            exits=(6, 7, 8),
            drafts=(2, 4, 4),
            accepts=(2, 3, 4),
            commits=(3, 4, 5),
        ),
    ]
    baseline, mine = summarise(samples, exact_library=True)
    assert (baseline.method, mine.method) == (BASELINE, "lede")
    assert (baseline.exit_layer, baseline.draft_length, baseline.acceptance) == (None, None, None)
    assert baseline.tokens_per_s == 16 / 8
    assert (baseline.speedup, baseline.speedup_low, baseline.speedup_high) == (1.0, 1.0, 1.0)
    assert baseline.speedup_over_transformers is None
    assert (mine.exit_layer, mine.draft_length) == (26 / 4, 13 / 4)
    assert (mine.acceptance, mine.tokens_per_round) == (11 / 13, 16 / 5)
    assert (mine.tokens_per_s, mine.speedup) == (8.0, 4.0)
    assert (mine.speedup_low, mine.speedup_high) == (2.0, 6.0)  # all prompts a, or all prompts b
    assert mine.identical


@pytest.mark.parametrize("exact", [True, False])
def test_identical_means_the_plain_decoder_s_tokens_and_in_fp32_also_the_library_s(exact):
    library = plain(LIBRARY, tokens=(1, 2, 3, 9), seconds=2.0)
    rows = {
        row.method: row
        for row in summarise([library, plain(BASELINE), sample("lede"), sample("bad", tokens=(1, 2))], exact)
    }
    assert rows["lede"].identical == rows[BASELINE].identical == (not exact)
    assert not rows["bad"].identical
    assert not rows[LIBRARY].identical
    assert rows["lede"].speedup_over_transformers == 2.0


def test_one_prompt_that_differs_is_enough():
    samples = [plain(BASELINE, p) for p in "abc"] + [
        sample("lede", p, tokens=(1, 2) if p == "b" else TEXT) for p in "abc"
    ]
    assert not summarise(samples, exact_library=False)[1].identical


def test_only_prompts_that_every_method_has_count():
    samples = [plain(BASELINE, "a"), plain(BASELINE, "b", seconds=99.0), sample("lede", "a", seconds=0.5)]
    assert summarise(samples, exact_library=False)[1].speedup == 2.0


def test_the_order_of_samples_does_not_matter():
    rng = np.random.default_rng(0)
    samples = [
        s
        for p in "abcde"
        for s in (plain(BASELINE, p, seconds=rng.uniform(1, 2)), sample("lede", p, seconds=rng.uniform(0.4, 2)))
    ]
    shuffled = [samples[0], *(samples[1:][i] for i in rng.permutation(9))]
    assert {r.method: r for r in summarise(shuffled, True)} == {r.method: r for r in summarise(samples, True)}


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        mine = [sample("lede", str(i), seconds=s) for i, s in enumerate(rng.gamma(20, 1 / 20, 40))]
        base = [plain(BASELINE, str(i), seconds=s) for i, s in enumerate(rng.gamma(20, 2 / 20, 40))]
        low, high = interval(mine, base)
        held += low <= 2.0 <= high
    assert 85 <= held <= 99


def test_intervals_resample_groups_not_prompts():
    """Ten prompts of a group tell no more than one: of two groups, all of the one or all of the other may be drawn."""
    samples, groups = [], {}
    for group, seconds in (("one", 1.0), ("other", 3.0)):
        for i in range(10):
            prompt = f"{group}{i}"
            groups[prompt] = group
            samples += [plain(BASELINE, prompt, seconds=6.0), sample("lede", prompt, seconds=seconds)]
    row = summarise(samples, True, groups=groups)[1]
    assert (row.speedup, row.speedup_low, row.speedup_high) == (3.0, 2.0, 6.0)
    assert paired(samples, "lede", BASELINE, groups) == (3.0, 2.0, 6.0)
    alone = summarise(samples, True)[1]
    assert 2.0 < alone.speedup_low < alone.speedup < alone.speedup_high < 6.0


def test_a_paired_ratio_is_of_the_two_methods_and_tighter_than_of_two_speedups():
    rng = np.random.default_rng(2)
    samples = []
    for i in range(30):
        slow = rng.uniform(1, 10)  # prompts differ, and all methods feel it
        samples += [
            plain(BASELINE, f"p{i}", seconds=3 * rng.uniform(1, 10)),
            sample("fast", f"p{i}", seconds=slow),
            sample("slow", f"p{i}", seconds=2 * slow),
        ]
    assert paired(samples, "fast", "slow") == pytest.approx((2.0, 2.0, 2.0))
    rows = {row.method: row for row in summarise(samples, True)}
    assert rows["fast"].speedup_low < 0.9 * rows["fast"].speedup


def test_of_sampled_texts_ours_are_compared_and_other_decoders_are_not():
    others = [plain(LIBRARY, tokens=(7, 7)), plain("llama-cpp-bf16")]
    mine = [plain(BASELINE), sample("lede"), sample("bad", tokens=(9, 9))]
    rows = summarise([*others, *mine], exact_library=True, greedy=False)
    assert [row.identical for row in rows] == [None, None, True, True, False]
    assert rows[0].tokens_per_s > 0


def test_time_is_split_over_all_of_it():
    parts = {"prompt_seconds": 2.0, "draft_seconds": 4.0, "decision_seconds": 1.0, "verify_seconds": 3.0}
    parts["choose_seconds"] = 0.5
    timed = sample("lede", seconds=10.0, **parts)
    row = summarise([plain(BASELINE, seconds=20.0, prompt_seconds=4.0, verify_seconds=16.0), timed], True)[1]
    assert (row.prompt_share, row.draft_share, row.decision_share) == (0.2, 3 / 8, 1 / 8)
    assert (row.verify_share, row.host_share) == (3 / 8, 1 / 8)
    assert row.choose_share == 0.5 / 8  # of the drafting and the verifying, not beside them
    library = summarise([plain(BASELINE), sample(LIBRARY, exits=(), drafts=(), accepts=(), commits=())], True)[1]
    unknown = library.prompt_share, library.host_share, library.choose_share, library.tokens_per_round
    assert unknown == (None,) * 4
