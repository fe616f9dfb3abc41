"""The speedup that E, d and acceptance imply, against the arithmetic done by hand."""

from dataclasses import replace

import pytest

from lede.bench.limit import implied, limit
from lede.bench.names import BASELINE
from lede.bench.summary import summarise
from lede.simulate.costs import MAX_ROWS, Costs
from tests.bench.samples import plain, sample

# A layer takes 1 ms however many rows it has, the head 2 ms; plain decoding of 8 layers 10 ms a token.
FLAT = Costs.from_json(
    {
        "layers": 8,
        "layer": [1.0] * MAX_ROWS,
        "head": [2.0] * MAX_ROWS,
        "features": 0.0,
        "decision": 0.0,
        "lookup": 0.5,
        "round": 0.0,
        "context": 100,
        "attention": 0.0,
        "prefill": 0.0,
        "autoregressive": 10.0,
    }
)
# d drafts at E cost d (E + 2), their last early pass and the rest 8 + 2
KNOWN = [
    (4, 4, 1.0, 5 * 10 / (4 * 6 + 10)),
    (4, 4, 0.5, 3 * 10 / (4 * 6 + 10)),
    (2, 1, 0.0, 10 / (4 + 10)),
    (0, 4, 1.0, 5 * 10 / (4 * 0.5 + 10)),
    (5, 0, 0.0, 1.0),
]


@pytest.mark.parametrize(("exit_layer", "drafts", "acceptance", "speedup"), KNOWN)
def test_the_formula(exit_layer, drafts, acceptance, speedup):
    assert implied(FLAT, exit_layer, drafts, acceptance) == pytest.approx(speedup)


def test_between_whole_numbers_the_cost_of_a_round_is_on_a_line():
    assert implied(FLAT, 2, 3.25, 0.8) == pytest.approx((0.8 * 3.25 + 1) * 10 / (3.25 * 4 + 10))


def test_deciding_and_the_host_are_free_in_it():
    dear = replace(FLAT, features=3.0, decision=5.0, round=7.0, index=1.0, trace=2.0)
    for exit_layer, drafts, acceptance, speedup in KNOWN:
        assert implied(dear, exit_layer, drafts, acceptance) == pytest.approx(speedup)


def test_a_method_s_limit_is_layer_by_layer():
    mixed = sample("lede", exits=(0, 4, None), drafts=(4, 2, 0), accepts=(3, 2, 0), commits=(4, 3, 1), tokens=range(8))
    spent = (4 * 0.5 + 10) + (2 * 6 + 10) + 10
    assert limit(FLAT, [mixed]) == pytest.approx(8 * 10 / spent)
    assert limit(FLAT, [plain(BASELINE)]) == 1.0
    assert limit(FLAT, [sample("transformers", exits=(), drafts=(), accepts=(), commits=())]) is None


def test_what_takes_exactly_the_modelled_time_reaches_all_of_it():
    spent = (3 * 7 + 10) / 1e3 + 10 / 1e3  # one round of three drafts at layer 5, and a plain one
    rows = summarise(
        [plain(BASELINE, seconds=1.04, prompt_seconds=1.0), sample("lede", seconds=1.0 + spent, prompt_seconds=1.0)],
        True,
        FLAT,
    )
    assert rows[1].share_of_limit == pytest.approx(1.0)
    assert rows[0].share_of_limit == pytest.approx(1.0)
    slower = summarise(
        [
            plain(BASELINE, seconds=1.04, prompt_seconds=1.0),
            sample("lede", seconds=1.0 + 2 * spent, prompt_seconds=1.0),
        ],
        True,
        FLAT,
    )
    assert slower[1].share_of_limit == pytest.approx(0.5)
