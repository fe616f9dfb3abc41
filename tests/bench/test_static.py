"""Static parameters are scored by counting rounds on paper: the count must be that of real decoding."""

import numpy as np
import pytest

from bench.static import best_static, predicted_rate
from collect.sweep import sweep
from decode.generate import generate
from decode.rules import MAX_DRAFTS, LayerSkip
from decode.sampling import Settings
from replay.costs import MAX_ROWS, Costs
from tests.models import ours

PROMPTS = [[3], [5, 9, 2, 30, 7, 1], [4, 4, 4, 4]]
SETTINGS = Settings(41)
NOTHING = (0.0,) * MAX_ROWS
ONE_ROW = (1.0, *NOTHING[1:])
COUNT_ROUNDS = Costs(4, NOTHING, NOTHING, 0.0, 0.0, 0.0, round=1.0)  # rounds that draft; the time is their number
COUNT_HEADS = Costs(4, NOTHING, ONE_ROW, 0.0, 0.0, 0.0, round=0.0)  # drafts, and rounds that do not draft


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_rounds_and_drafts_are_those_of_real_decoding(layer):
    model, right = ours("grouped"), []
    for prompt in PROMPTS:
        done = generate(model, prompt, None, SETTINGS)
        rows = sweep(model, (layer,), 0, done.prompt_ids, done.token_ids)
        right.append(np.array(rows["draft_token"]) == np.array(rows["target_token"]))
    for drafts in (1, 2, 3, 7, MAX_DRAFTS):
        real = [generate(model, prompt, LayerSkip(layer, drafts), SETTINGS) for prompt in PROMPTS]
        tokens = sum(len(done.token_ids) for done in real)
        drafting = sum(round_.exit_layer is not None for done in real for round_ in done.rounds)
        plain = sum(len(done.rounds) for done in real) - drafting
        drafted = sum(done.drafted for done in real)
        assert tokens / predicted_rate(right, layer, drafts, COUNT_ROUNDS) == pytest.approx(drafting)
        assert tokens / predicted_rate(right, layer, drafts, COUNT_HEADS) == pytest.approx(drafted + plain)


def test_the_search_tries_what_it_was_given_and_reports_progress():
    seen = []
    found = best_static(ours("grouped"), PROMPTS[:2], SETTINGS, layers=(1, 3), progress=lambda *done: seen.append(done))
    assert found.exit_layer in (1, 3)
    assert 1 <= found.draft_length <= MAX_DRAFTS
    assert found.tokens_per_s > 0
    assert (found.rule.layers, found.rule.max_drafts) == ((found.exit_layer,), found.draft_length)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
