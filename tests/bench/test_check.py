"""Predictions beside measurements: what a checked bench reports, stores and says again."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lede.bench import check as bench_check
from lede.bench import methods
from lede.bench import run as bench_run
from lede.bench.check import CALIBRATIONS, Check, calibrations, combined, predict
from lede.bench.job import Job, question
from lede.bench.names import BASELINE
from lede.bench.run import bench
from lede.bench.store import Store
from lede.bench.tune import sweep_texts
from lede.bench_tables import bench_words, check_table
from lede.collect.prompts import Prompt
from lede.decode.facts import model_facts
from lede.decode.generate import encode
from lede.decode.load import load_model
from lede.decode.model import Model
from lede.decode.rules import Autoregressive, LayerSkip
from lede.decode.sampling import Settings
from lede.policy import Policy
from lede.simulate.baselines import make_rule
from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.profile import SAMPLED
from lede.simulate.scalar import replay_rule
from tests.learn.swept import made_up

PROMPTS = tuple(Prompt(f"p{i}", "toy", text) for i, text in enumerate(("def mean(", "while x", "import")))
TRAINING = (Prompt("t0", "toy", "class Tree:"),)
METHODS = (
    "transformers",
    BASELINE,
    "layerskip",
    "draft-verify",
    "del",
    "adaptive-lookup",
    "lede",
    "lede-fixed-length",
    "lede-exits",
    "variant",
)
COSTS = Costs(
    layers=4,
    layer=tuple(0.9 + 0.1 * rows for rows in range(MAX_ROWS)),
    head=(0.1,) * MAX_ROWS,
    features=0.01,
    decision=0.01,
    lookup=0.01,
    round=0.1,
    prefill=0.2,
    context=7,
)


@pytest.fixture(scope="module")
def model(checkpoint) -> Model:
    return load_model(checkpoint, "float32", "cpu")


@pytest.fixture(scope="module")
def policies(model, tmp_path_factory) -> dict[str, Path]:
    """A random policy of each kind."""
    rng, found = np.random.default_rng(0), {}
    for name, layers in (("lede", (0, 1, 2)), ("lede-exits", (1, 2)), ("variant", (0, 2))):
        features = ("margin", "lookup_length", *(f"layer={layer}" for layer in layers))
        weights = ((rng.normal(size=(2, len(features))).astype("f4"), np.zeros(2, "f4")),)
        found[name], ones = tmp_path_factory.mktemp(name), np.ones(len(features), "f4")
        Policy(features, layers, weights, 0 * ones, ones, {"model": model_facts(model)}).save(found[name])
    return found


@pytest.fixture(scope="module")
def checked(model, checkpoint, policies, tmp_path_factory):
    """One bench with a check, twice; the second time measuring anything is an error."""
    job = Job("toy", PROMPTS, TRAINING, Settings(16), METHODS, policies, check=True)
    out, seen = tmp_path_factory.mktemp("bench"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "measure_costs", partial(methods.measure_costs, seconds=0.3))
        patch.setattr(bench_check, "SECONDS", 0.3)
        first = bench(model, str(checkpoint), job, out, progress=lambda share, note: seen.append(share))
        for module, name in (
            (bench_run, "measure"),
            (bench_run, "prepare"),
            (bench_check, "measure_costs"),
            (bench_check, "sweep_texts"),
            (bench_check, "evaluate"),
        ):
            patch.setattr(module, name, None)
        second = bench(model, str(checkpoint), job, out)
    return first, second, out, job, seen


def test_every_rule_of_ours_has_a_prediction_and_the_library_has_none(checked):
    check = json.loads(json.dumps(checked[0].to_json()))["check"]
    predictions = check["predictions"]
    assert set(predictions) == set(METHODS) - {"transformers"}
    for name, (speedup, low, high) in predictions.items():
        assert 0 < low <= speedup <= high
        if "lede" in name or name == "variant":  # others may draft at layers that the oracle may not
            assert high <= check["oracle_speedup"] + 1e-9
    assert predictions[BASELINE] == [1, 1, 1]
    assert check["oracle_layers"] == [0, 1, 2]
    assert len(calibrations(checked[0].tuned)) == CALIBRATIONS
    for speedup, low, high in (predictions[BASELINE], predictions["layerskip"]):
        assert low == speedup == high
    assert any(low < high for _, low, high in predictions.values())  # rules that look at states are unsure


def test_the_same_command_says_the_same_and_measures_nothing(checked):
    first, second, *_ = checked
    a, b = first.to_json(), second.to_json()
    assert (a.pop("resumed"), b.pop("resumed")) == (0, len(METHODS) * len(PROMPTS))
    assert a == b
    assert second.check == first.check


def test_progress_goes_up_to_the_end(checked):
    seen = checked[-1]
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_tables_and_words(checked):
    first = checked[0]
    table = check_table(first)
    assert list(table.columns[0].cells) == [m for m in METHODS if m != "transformers"]
    rows = [replace(row, speedup=2.0) for row in first.rows]
    predictions = {name: [2.0 if name != "del" else 1.0, 1.0, 2.0] for name in first.check.predictions}
    check = replace(first.check, predictions=predictions)
    words = " ".join(map(str, bench_words(replace(first, rows=rows, check=check))))
    assert "more than 5% off what was predicted: del (+100%)" in words
    assert "as fast as the policy variant: 95 % interval" in words
    assert "layer (among 0, 1, 2)" in words
    slow = [replace(s, seconds=2 * first.check.plain_seconds / len(PROMPTS)) for s in first.samples]
    assert "plain decoding took 2.00×" in " ".join(map(str, bench_words(replace(first, samples=slow))))


def test_a_finished_run_can_be_checked_later(model, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "measure_costs", partial(methods.measure_costs, seconds=0.3))
    monkeypatch.setattr(bench_check, "SECONDS", 0.3)
    job = Job("toy", PROMPTS, TRAINING, Settings(8), (BASELINE, "prompt-lookup"))
    plain = bench(model, str(checkpoint), job, tmp_path)
    assert plain.to_json()["check"] is None
    monkeypatch.setattr(bench_run, "measure", None)
    later = bench(model, str(checkpoint), replace(job, check=True), tmp_path)
    assert [row.speedup for row in later.rows] == [row.speedup for row in plain.rows]
    assert later.check.predictions.keys() == {BASELINE, "prompt-lookup"}
    assert later.check.oracle_layers == [0]  # no policy: the layers that the rules draft at


def test_what_replay_says_of_sampled_texts_is_what_was_decoded(model, checkpoint, policies, tmp_path):
    methods = (BASELINE, "layerskip", "prompt-lookup", "cascade", "lede")
    settings = Settings(32, temperature=0.3, top_k=3, seed=2)
    job = Job("toy", PROMPTS, TRAINING, settings, methods, {"lede": policies["lede"]}, check=True)
    report = bench(model, str(checkpoint), job, tmp_path)
    assert all(row.identical for row in report.rows)
    assert report.check.predictions.keys() == {*methods}
    accepted = 0
    for row in report.rows:  # rounds are what they were: rules of one fixed length, whose drafts replay knows all
        if row.method in ("layerskip", "prompt-lookup"):
            mine = [s for s in report.samples if s.method == row.method]
            rule, tokens = make_rule(row.method, row.parameters), {p.id: encode(model, p.content) for p in PROMPTS}
            prompts, outputs = [tokens[s.prompt_id] for s in mine], [s.token_ids for s in mine]
            replayed = replay_rule(rule, sweep_texts(model, prompts, outputs, settings, {1, *rule.layers}), COSTS)
            assert replayed.accepted.tolist() == [s.sums.accepted for s in mine]
            assert replayed.rounds.tolist() == [s.sums.rounds for s in mine]
            accepted += sum(s.sums.accepted for s in mine)
    assert accepted > 0


def test_costs_of_a_sampled_run_are_those_of_its_own_choices(model, checkpoint, tmp_path, monkeypatch):
    seen = []

    def measured(*given, **more):
        seen.append(more["settings"])
        return COSTS

    monkeypatch.setattr(methods, "measure_costs", measured)
    monkeypatch.setattr(bench_check, "measure_costs", measured)
    settings = Settings(8, temperature=0.5, top_k=0, seed=1)
    for asked in (settings, Settings(8)):
        bench(model, str(checkpoint), Job("toy", PROMPTS[:1], TRAINING, asked, (BASELINE,), check=True), tmp_path)
    assert len(seen) == 2 + 2 and seen[:2] == [settings] * 2 and seen[2:] == [SAMPLED] * 2


def test_predictions_are_ratios_of_all_time_on_the_same_texts():
    texts = made_up(0, count=6)
    found = predict({BASELINE: Autoregressive(), "x": LayerSkip(2, 3)}, texts, COSTS, (0, 2, 4))
    assert found.predictions["x"][0] < found.oracle_speedup
    dearer = replace(COSTS, prefill=50.0)  # nothing but reading prompts counts
    assert predict({BASELINE: Autoregressive()}, texts, dearer, (0, 2)).oracle_speedup < found.oracle_speedup
    assert Check(**json.loads(json.dumps(asdict(found)))) == found


def test_costs_are_the_means_of_all_calibrations():
    times = [replace(COSTS, layer=tuple(f * x for x in COSTS.layer), round=r) for f, r in ((1, 3), (2, 1), (6, 2))]
    found = combined(times)
    assert found.layer == pytest.approx([3 * x for x in COSTS.layer])
    assert found.round == 2
    assert (found.layers, found.context) == (4, 7)
    assert combined([COSTS]) == COSTS


def test_a_prediction_of_other_code_is_made_again(checked, model, monkeypatch):
    first, _, out, job, _ = checked
    store = Store(out, question(model, job))
    kept = store.tuned()["check"]
    assert Check(**kept["said"]) == first.check
    monkeypatch.setattr(bench_check, "code_hash", lambda parts: "another")
    monkeypatch.setattr(bench_check, "measure_costs", None)  # the costs are known
    again = bench_check.check(model, job, store, first.samples)
    assert store.tuned()["check"]["code"] == "another"
    assert again.predictions["layerskip"] == first.check.predictions["layerskip"]
