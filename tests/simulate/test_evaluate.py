"""Evaluation from a dataset's files: nothing is above the oracle, and every number is what it says."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from lede.commands.evaluate import policy_methods
from lede.decode.rules import AdaptiveLookup, DraftVerify, LayerSkip, PromptLookup, QPolicy
from lede.policy import Policy, PolicyError
from lede.replay.errors import DatasetError
from lede.replay.reader import open_dataset
from lede.replay.runs import start_run
from lede.replay.split import episode_splits
from lede.replay.writer import EpisodeWriter
from lede.simulate.baselines import BASELINES
from lede.simulate.costs import Costs
from lede.simulate.evaluate import Method, chosen, evaluate, read_sides, tuned_baselines
from lede.simulate.scalar import replay_rule
from tests.replay.synthetic import COSTS, MODEL_LAYERS, facts, make_episode, write_dataset

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
    return read_sides(dataset).test


@pytest.fixture(scope="module")
def found(texts):
    methods = [
        Method("layerskip", LayerSkip(4, 3), {"exit_layer": 4, "draft_length": 3}),
        Method("lookup", PromptLookup(31)),
        Method("adaptive", AdaptiveLookup(4, 1, 31)),
        Method("draft-verify", DraftVerify(6, keeps_last=False)),
        *(Method(f"policy {seed}", QPolicy(policy(seed=seed))) for seed in range(4)),
    ]
    return evaluate(texts, PRICES, methods)


def test_lookups_are_evaluated_also_on_a_dataset_of_real_layers_only(tmp_path):
    write_dataset(tmp_path / "d", episodes=10, seed=1, layers=(4, 6), with_sweeps=True)
    dataset = open_dataset(tmp_path / "d")
    sides = read_sides(dataset)
    assert sides.test.layers == sides.training.layers == LAYERS
    made = [*tuned_baselines(chosen(sides.training, [0]), PRICES), Method("mine", QPolicy(policy()))]
    rows = {row.method: row for row in evaluate(sides.test, PRICES, made).rows}
    assert rows["prompt-lookup"].exits.keys() <= {0} and rows["layerskip"].exits.keys() <= set(LAYERS)
    assert {"adaptive-lookup", "mine"} < rows.keys()


def test_no_rule_is_above_the_oracle_and_no_ceiling_either(found):
    for row in (*found.rows, *found.ceilings):
        assert 0 < row.predicted_speedup <= found.oracle_speedup + 1e-9
        assert row.bound_low - 1e-9 <= row.predicted_speedup <= row.bound_high + 1e-9 <= found.oracle_speedup + 2e-9
        assert row.predicted_low <= row.predicted_speedup <= row.predicted_high


def test_plain_decoding_is_the_measure(found):
    row = found.rows[0]
    assert (row.method, row.predicted_speedup, row.tokens_per_round) == ("autoregressive", 1, 1)
    assert (row.exit_layer, row.draft_length, row.acceptance, row.exits) == (None, None, None, {})


def test_a_ceiling_that_may_choose_less_is_lower(found):
    by_name = {row.method: row.predicted_speedup for row in found.ceilings}
    assert by_name["oracle"] == found.oracle_speedup
    assert {f"always d={d}, best E" for d in (2, 4, 8, 12, 24)} | {f"always E={e}, best d" for e in LAYERS} | {
        "oracle",
        "oracle without layer 0",
        "oracle that pays to look",
    } == by_name.keys()
    real = max(by_name["always E=4, best d"], by_name["always E=6, best d"])
    assert real < by_name["oracle without layer 0"] < by_name["oracle"]
    assert by_name["oracle that pays to look"] < by_name["oracle"]


def test_looking_is_paid_for_as_a_learned_policy_pays(texts):
    """conf_trace is not among the features that policies have by default: its price changes nothing."""
    paying = [
        {row.method: row.tokens_per_s for row in evaluate(texts, replace(PRICES, trace=trace), []).ceilings}
        for trace in (0.0, 0.5)
    ]
    assert paying[0] == pytest.approx(paying[1])


def test_a_rule_of_one_layer_is_below_its_own_ceiling(found):
    ceilings = {row.method: row.predicted_speedup for row in found.ceilings}
    rows = {row.method: row.predicted_speedup for row in found.rows}
    assert rows["layerskip"] <= ceilings["always E=4, best d"]
    assert max(rows["lookup"], rows["adaptive"]) <= ceilings["always E=0, best d"]


def test_rows_are_what_replay_says_reading_prompts_included(found, texts):
    row = next(row for row in found.rows if row.method == "layerskip")
    replayed = replay_rule(LayerSkip(4, 3), texts, PRICES)
    spent = replayed.milliseconds.sum() + PRICES.prefill * texts.prompt_lengths.sum()
    assert row.tokens_per_s == pytest.approx(1e3 * replayed.tokens.sum() / spent)
    assert spent > replayed.milliseconds.sum()
    assert row.exits == {4: replayed.drafting.sum()}
    assert row.parameters == {"exit_layer": 4, "draft_length": 3}


def test_the_report_is_json_of_a_known_shape(found):
    report = json.loads(json.dumps(asdict(found)))
    assert report.keys() == {"texts", "groups", "doubt", "oracle_speedup", "rows", "ceilings"}
    keys = {"method", "exit_layer", "draft_length", "acceptance", "tokens_per_round", "tokens_per_s"}
    keys |= {"predicted_speedup", "predicted_low", "predicted_high", "bound_low", "bound_high"}
    keys |= {"exits", "parameters"}
    assert all(row.keys() == keys for row in (*report["rows"], *report["ceilings"]))
    assert (report["texts"], report["groups"], report["doubt"]) == (found.texts, found.texts, None)


def test_texts_are_those_of_the_test_side_and_baselines_are_tuned_on_training(dataset):
    sides, splits = read_sides(dataset), episode_splits(dataset)
    for texts, side in ((sides.test, "test"), (sides.training, "train")):
        assert texts.numbers.tolist() == splits.numbers[splits.split == side].tolist() != []
    assert sides.groups.tolist() == splits.group[splits.split == "test"].tolist()


def test_a_prompt_that_two_runs_decoded_counts_once_and_unswept_episodes_do_not(tmp_path):
    write_dataset(tmp_path / "d", episodes=30, seed=1, layers=LAYERS, with_sweeps=True)
    once = read_sides(open_dataset(tmp_path / "d"))
    run = start_run(tmp_path / "d", {"again": True}, facts(), new_run=True)
    with EpisodeWriter(run) as writer:
        for number in range(30):
            writer.add(*make_episode(number, 1, LAYERS, True))
    run = start_run(tmp_path / "d", {"sampled": True}, facts(), new_run=True)
    with EpisodeWriter(run) as writer:
        for number in range(30):
            writer.add(*make_episode(number, 2, LAYERS, False))
    twice = read_sides(open_dataset(tmp_path / "d"))
    for before, now in ((once.test, twice.test), (once.training, twice.training)):
        assert sorted(map(tuple, before.targets.tolist())) == sorted(map(tuple, now.targets.tolist()))


def test_intervals_resample_groups(texts):
    """Texts of one group are alike: four copies of each text say no more than the text."""
    several = chosen(texts, np.repeat(np.arange(len(texts.lengths)), 4).tolist())
    groups = np.repeat(np.arange(len(texts.lengths)), 4)
    method = [Method("layerskip", LayerSkip(4, 3))]
    alone = evaluate(texts, PRICES, method).rows[1]
    told, untold = (evaluate(several, PRICES, method, given) for given in (groups, None))
    row = told.rows[1]
    assert (told.texts, told.groups) == (4 * len(texts.lengths), len(texts.lengths))
    assert (row.predicted_low, row.predicted_high) == pytest.approx((alone.predicted_low, alone.predicted_high))
    row = untold.rows[1]
    assert row.predicted_high - row.predicted_low < 0.7 * (alone.predicted_high - alone.predicted_low)


def test_baselines_are_tuned_once_each(dataset):
    made = tuned_baselines(chosen(read_sides(dataset).training, [0, 1]), PRICES)
    names = list(BASELINES)
    assert [method.name for method in made] == names
    assert set(made[0].rule.layers) < set(LAYERS)


def test_what_cannot_be_evaluated_is_named(dataset, tmp_path):
    with pytest.raises(PolicyError, match=r"policy p exits at layers 5, 7, .* swept at layers 0, 4, 6 only"):
        policy_methods(dataset, {"p": policy((0, 5, 7))})
    with pytest.raises(PolicyError, match="another architecture"):
        policy_methods(dataset, {"p": policy(config_hash="f" * 16)})
    policy_methods(dataset, {"p": policy((0, 4, MODEL_LAYERS))})  # the full model needs no sweep
    write_dataset(tmp_path / "bare", episodes=4, seed=1, layers=LAYERS)
    with pytest.raises(DatasetError, match="no swept episodes on the test side"):
        read_sides(open_dataset(tmp_path / "bare"))
