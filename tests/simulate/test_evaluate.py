"""Evaluation from a dataset's files: nothing is above the oracle, and every number is what it says."""

import json

import numpy as np
import pytest

from lede.bench.errors import BenchError
from lede.decode.rules import AdaptiveLookup, DraftVerify, LayerSkip, PromptLookup, QPolicy
from lede.replay.errors import DatasetError
from lede.replay.reader import open_dataset
from lede.replay.split import episode_splits
from lede.serve.errors import PolicyError
from lede.serve.policy import Policy
from lede.simulate.contenders import contenders, first, held_out_texts
from lede.simulate.costs import Costs
from lede.simulate.evaluate import Rival, evaluate, worst
from lede.simulate.evaluate_plot import draw
from lede.simulate.scalar import replay_rule
from tests.replay.synthetic import COSTS, MODEL_LAYERS, write_dataset

LAYERS = (0, 4, 6)
# layers take longer as the text grows, which the ceilings must know as well
PRICES = Costs.from_json(COSTS.to_json() | {"cache": 0.002, "attention": 0.0005, "context": 20, "prefill": 0.2})


def policy(layers=LAYERS, seed=0, **model) -> Policy:
    """A random one, of the synthetic model."""
    features = ("top1_logp", "margin", "lookup_length", *(f"layer={layer}" for layer in layers))
    rng, ones = np.random.default_rng(seed), np.ones(len(features), "f4")
    weights = ((rng.normal(size=(2, len(features))).astype("f4"), np.zeros(2, "f4")),)
    facts = {"name": "synthetic", "layers": MODEL_LAYERS, "config_hash": "0" * 16} | model
    return Policy(features, tuple(layers), weights, 0 * ones, ones, {"model": facts})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "d"
    write_dataset(path, episodes=30, seed=1, layers=LAYERS, with_sweeps=True)
    return open_dataset(path)


@pytest.fixture(scope="module")
def texts(dataset):
    return held_out_texts(dataset)[0]


@pytest.fixture(scope="module")
def found(texts):
    rivals = [
        Rival("layerskip", LayerSkip(4, 3), {"exit_layer": 4, "draft_length": 3}), Rival("lookup", PromptLookup(31)),
        Rival("adaptive", AdaptiveLookup(4, 1, 31)), Rival("draft-verify", DraftVerify(6, keeps_last=False)),
        *(Rival(f"policy {seed}", QPolicy(policy(seed=seed))) for seed in range(4)),
    ]  # fmt: skip
    return evaluate(texts, PRICES, rivals)


def test_lookups_are_evaluated_also_on_a_dataset_of_real_layers_only(tmp_path):
    write_dataset(tmp_path / "d", episodes=10, seed=1, layers=(4, 6), with_sweeps=True)
    dataset = open_dataset(tmp_path / "d")
    held, training = held_out_texts(dataset)
    assert held.layers == training.layers == LAYERS
    made = contenders(dataset, {"mine": policy()}, first(training, 1), PRICES)
    rows = {row.method: row for row in evaluate(held, PRICES, made).rows}
    assert rows["prompt-lookup"].exits.keys() <= {0} and rows["layerskip"].exits.keys() <= set(LAYERS)
    assert {"adaptive-lookup", "mine"} < rows.keys()


def test_no_rule_is_above_the_oracle_and_no_ceiling_either(found):
    for row in (*found.rows, *found.ceilings):
        assert 0 < row.predicted_speedup <= found.oracle_speedup + 1e-9
        assert row.bound_low - 1e-9 <= row.predicted_speedup <= row.bound_high + 1e-9 <= found.oracle_speedup + 2e-9
        assert row.regret == pytest.approx(1 - row.predicted_speedup / found.oracle_speedup)
        assert row.predicted_low <= row.predicted_speedup <= row.predicted_high
        assert row.worst_decile <= row.predicted_speedup + 1e-9


def test_plain_decoding_is_the_measure(found):
    row = found.rows[0]
    assert (row.method, row.predicted_speedup, row.worst_decile, row.tokens_per_round) == ("autoregressive", 1, 1, 1)
    assert (row.exit_layer, row.draft_length, row.acceptance, row.exits) == (None, None, None, {})


def test_a_ceiling_that_may_choose_less_is_lower(found):
    by_name = {row.method: row.predicted_speedup for row in found.ceilings}
    assert by_name["oracle"] == found.oracle_speedup
    assert {f"always d={d}, best E" for d in (2, 4, 8, 12, 24)} | {f"always E={e}, best d" for e in LAYERS} | {
        "oracle", "oracle without layer 0", "oracle that pays to look"
    } == by_name.keys()  # fmt: skip
    real = max(by_name["always E=4, best d"], by_name["always E=6, best d"])
    assert real < by_name["oracle without layer 0"] < by_name["oracle"]
    assert by_name["oracle that pays to look"] < by_name["oracle"]


def test_a_rule_of_one_layer_is_below_its_own_ceiling(found):
    ceilings = {row.method: row.predicted_speedup for row in found.ceilings}
    rows = {row.method: row.predicted_speedup for row in found.rows}
    assert rows["layerskip"] <= ceilings["always E=4, best d"]
    assert max(rows["lookup"], rows["adaptive"]) <= ceilings["always E=0, best d"]


def test_rows_are_what_replay_says_reading_prompts_included(found, texts):
    row = next(row for row in found.rows if row.method == "layerskip")
    replayed = replay_rule(LayerSkip(4, 3), texts, PRICES)
    spent = sum(r.milliseconds + r.prompt_milliseconds for r in replayed)
    assert row.tokens_per_s == pytest.approx(1e3 * sum(r.tokens for r in replayed) / spent)
    assert spent > sum(r.milliseconds for r in replayed)
    assert row.exits == {4: sum(r.drafting_rounds for r in replayed)}
    assert row.parameters == {"exit_layer": 4, "draft_length": 3}


def test_the_worst_tenth_is_of_texts_not_of_a_mean():
    plain, spent = np.full(20, 6.0), np.array([2.0] * 18 + [12.0, 24.0])
    assert worst(plain, spent) == 12 / 36
    assert worst(plain[:3], np.array([1.0, 2.0, 3.0])) == 2.0  # one at least


def test_the_report_is_json_of_a_known_shape(found):
    report = json.loads(json.dumps(found.to_json()))
    assert report.keys() == {"texts", "prompts_included", "oracle_speedup", "rows", "ceilings"}
    keys = {
        "method", "exit_layer", "draft_length", "acceptance", "tokens_per_round", "tokens_per_s", "predicted_speedup",
        "predicted_low", "predicted_high", "bound_low", "bound_high", "regret", "worst_decile", "exits", "parameters",
    }  # fmt: skip
    assert all(row.keys() == keys for row in (*report["rows"], *report["ceilings"]))
    assert (report["texts"], report["prompts_included"]) == (found.texts, True)


def test_costs_without_prompts_are_told_apart(texts):
    assert not evaluate(texts, COSTS, []).prompts_included  # as earlier versions measured them


def test_the_picture_is_drawn(found, tmp_path):
    draw(tmp_path / "plots" / "e.png", found, "made up")
    assert (tmp_path / "plots" / "e.png").read_bytes().startswith(b"\x89PNG")


def test_texts_are_those_of_the_test_side_and_rivals_are_tuned_on_training(dataset):
    held, training = held_out_texts(dataset)
    splits = episode_splits(dataset)
    for texts, side in ((held, "test"), (training, "train")):
        assert texts.numbers.tolist() == splits.numbers[splits.split == side].tolist() != []


def test_rivals_are_tuned_once_each_and_policies_come_last(dataset):
    _, training = held_out_texts(dataset)
    made = contenders(dataset, {"mine": policy()}, first(training, 2), PRICES)
    assert [rival.name for rival in made] == [
        "layerskip", "lite", "draft-verify", "length-heuristic", "del", "prompt-lookup", "adaptive-lookup", "mine",
    ]  # fmt: skip
    assert set(made[0].rule.layers) < set(LAYERS)
    assert [rival.name for rival in contenders(dataset, {}, None, PRICES)] == []


def test_what_cannot_be_evaluated_is_named(dataset, tmp_path):
    with pytest.raises(BenchError, match=r"policy p exits at layers 5, 7, .* swept at layers 0, 4, 6 only"):
        contenders(dataset, {"p": policy((0, 5, 7))}, None, PRICES)
    with pytest.raises(PolicyError, match="another architecture"):
        contenders(dataset, {"p": policy(config_hash="f" * 16)}, None, PRICES)
    contenders(dataset, {"p": policy((0, 4, MODEL_LAYERS))}, None, PRICES)  # the full model needs no sweep
    write_dataset(tmp_path / "bare", episodes=4, seed=1, layers=LAYERS)
    with pytest.raises(DatasetError, match="no swept episodes"):
        held_out_texts(open_dataset(tmp_path / "bare"))
