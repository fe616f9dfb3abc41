"""What a round costs is the sum of what it runs, at every length of the text."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lede.decode.rules import LayerSkip, Lite, PromptLookup
from lede.replay.errors import DatasetError
from lede.replay.reader import open_dataset
from lede.replay.runs import start_run
from lede.replay.schema import STATE
from lede.simulate.costs import MAX_ROWS, Costs, costs_device, dataset_costs
from tests.models import FIXED
from tests.replay.synthetic import write_dataset

MEASURED = Costs(
    layers=8,
    layer=tuple(0.1 + 0.01 * rows for rows in range(MAX_ROWS)),
    head=tuple(0.2 + 0.02 * rows for rows in range(MAX_ROWS)),
    features=0.03,
    decision=0.02,
    lookup=0.01,
    round=0.05,
    context=200,
    cache=1e-4,
    attention=2e-5,
    prefill=0.07,
    autoregressive=8 * 0.12 + 0.2,
    index=0.015,
    trace=0.04,
    speak=0.15,
)
ANYWHERE = st.none() | st.integers(0, 5000)


def test_each_operation():
    far = 100 * (1e-4 + 2e-5)  # of a layer over one row, at 300 positions
    assert MEASURED.first() == pytest.approx(0.12)  # in plain decoding, dearer than right behind itself
    assert MEASURED.step(4, 6) == pytest.approx(2 * 0.12 + 0.15 + 0.03 + 0.02)
    assert MEASURED.step(4, 6, 300) == pytest.approx(2 * (0.12 + far) + 0.2)
    assert MEASURED.draft(0) == MEASURED.draft(0, 300) == MEASURED.step(0, 0) == pytest.approx(0.03)
    assert MEASURED.draft(5, 300) == pytest.approx(5 * (0.1 + far) + 0.15 + 0.03 + 0.01 + 0.02)
    upper = 3 * (MEASURED.layer[3] + 100 * (1e-4 + 4 * 2e-5))
    round_ = 5 * (0.1 + far) + upper + MEASURED.head[3] + 0.05
    assert replace(MEASURED, trace=0.0, index=0.0).finish(5, 3, 300) == pytest.approx(round_)
    assert MEASURED.finish(5, 3, 300) == pytest.approx(round_ + 0.015 + 0.04)
    assert MEASURED.plain(300) == pytest.approx(1.16 + 8 * far)
    assert MEASURED.read(300) == pytest.approx(21)


@given(walk=st.sets(st.integers(0, 7)), drafts=st.integers(0, MAX_ROWS - 1), at=ANYWHERE)
@FIXED
def test_a_round_costs_what_its_parts_do(walk, drafts, at):
    """The tables of the batched engine are of the parts, the scalar one asks for the sum."""
    walk = sorted(walk)
    spent = MEASURED.price(walk, drafts if walk else 0, at)
    parts = sum(MEASURED.step(lower, upper, at) for lower, upper in pairwise([0, *walk]))
    exit_layer = max(walk, default=0)
    if walk and drafts:
        parts += (drafts - 1) * MEASURED.draft(exit_layer, at) + MEASURED.finish(exit_layer, drafts, at)
        dropped = MEASURED.price(walk, drafts, at, looks=drafts)  # one more was seen, and not drafted
        assert dropped == pytest.approx(spent + MEASURED.draft(exit_layer, at) - exit_layer * MEASURED.again(at))
    else:
        parts += MEASURED.finish(exit_layer, 0, at)
    assert spent == pytest.approx(parts)
    assert MEASURED.price(walk, 0, at, missed=True) == pytest.approx(MEASURED.price(walk, 0, at) + MEASURED.lookup)


@given(exit_layer=st.integers(0, 7), drafts=st.integers(0, MAX_ROWS - 1), at=ANYWHERE)
@FIXED
def test_a_fixed_rule_pays_for_its_drafts_and_for_no_look(exit_layer, drafts, at):
    spent = MEASURED.fixed(exit_layer, drafts, at)
    if drafts == 0:
        assert spent == pytest.approx(MEASURED.plain(at) + (0.025 if exit_layer == 0 else 0))
        return
    walk = MEASURED.step(0, exit_layer, at) + (MEASURED.lookup if exit_layer else 0)
    looking = walk + (drafts - 1) * MEASURED.draft(exit_layer, at) + MEASURED.finish(exit_layer, drafts, at)
    saved = drafts * (0.02 if exit_layer == 0 else 0.02 + 0.03 + 0.01) + 0.04 + (0 if exit_layer == 0 else 0.015)
    assert spent == pytest.approx(looking - saved)


@given(exit_layer=st.integers(1, 7), at=ANYWHERE)
@FIXED
def test_going_on_without_a_draft_is_plain_decoding_and_the_looks(exit_layer, at):
    """A walk to a layer, and the upper layers from there: every layer ran once."""
    looked = MEASURED.speak + MEASURED.features + MEASURED.decision
    walked = MEASURED.step(0, exit_layer, at) - looked
    assert walked + replace(MEASURED, trace=0.0, index=0.0).finish(exit_layer, 0, at) == pytest.approx(
        MEASURED.plain(at)
    )


@given(exit_layer=st.integers(0, 7), drafts=st.integers(0, MAX_ROWS - 1), at=ANYWHERE)
@FIXED
def test_sampled_text_is_dearer_by_its_choices(exit_layer, drafts, at):
    """One of every row that is verified, and one of every draft of a real layer."""
    assert MEASURED.sampled() == MEASURED  # of a file that does not know
    costs = replace(MEASURED, choose=0.3, choose_draft=0.07)
    own = drafts * 0.07 if exit_layer else 0.0
    dearer = costs.sampled().fixed(exit_layer, drafts, at) - costs.fixed(exit_layer, drafts, at)
    assert dearer == pytest.approx((drafts + 1) * 0.3 + own)
    assert costs.fixed(exit_layer, drafts, at) == pytest.approx(MEASURED.fixed(exit_layer, drafts, at))
    assert costs.sampled().first(at) == pytest.approx(costs.first(at))
    looked = costs.for_policy(STATE, (0, 4)).sampled()
    assert looked.step(2, 4) - costs.step(2, 4) == pytest.approx(0.07)
    assert looked.draft(4) - costs.draft(4) == pytest.approx(0.07) and looked.draft(0) == costs.draft(0)
    assert Costs.from_json(json.loads(json.dumps(costs.to_json()))) == costs


def test_json_and_what_is_not_costs():
    assert Costs.from_json(json.loads(json.dumps(MEASURED.to_json()))) == MEASURED
    assert Costs.from_json(MEASURED.to_json() | {"unknown": 1, "error": None}) == MEASURED  # null: not measured
    with pytest.raises(DatasetError, match="lack lookup"):
        Costs.from_json({name: value for name, value in MEASURED.to_json().items() if name != "lookup"})
    for wrong in ({"layer": [1.0]}, {"head": []}):
        with pytest.raises(DatasetError, match="32 rows"):
            Costs.from_json(MEASURED.to_json() | wrong)
    for wrong in ({"layer": 3.0}, {"round": "slow"}, {"features": float("nan")}, {"lookup": -1.0}, {"cache": True}):
        with pytest.raises(DatasetError, match=f"costs have {next(iter(wrong))}"):
            Costs.from_json(MEASURED.to_json() | wrong)
    old = Costs.from_json({name: value for name, value in MEASURED.to_json().items() if name != "speak"})
    assert old.speak == old.head[0]  # files of older versions: drafts by the model's head
    assert replace(MEASURED, autoregressive=0.0).plain() == pytest.approx(8 * 0.1 + 0.2)


def test_a_policy_pays_for_the_features_that_it_has():
    everything = (*STATE, "draft_index")
    assert MEASURED.for_policy(everything, (0, 4)) == MEASURED
    free = MEASURED.for_policy(("top1_logp", "margin"), (0, 4))
    assert free.draft(4) == pytest.approx(MEASURED.draft(4) - MEASURED.lookup)  # nothing is looked up at layer 4
    assert free.draft(0) == MEASURED.draft(0)
    assert free.finish(4, 3) == pytest.approx(MEASURED.finish(4, 3) - MEASURED.trace)
    deep = MEASURED.for_policy(("conf_trace",), (4, 6))
    assert deep.finish(4, 3) == pytest.approx(MEASURED.finish(4, 3) - MEASURED.index)  # there is no index to keep
    seen = MEASURED.for_policy(("lookup_length",), (4, 6))
    assert seen.draft(4) == MEASURED.draft(4)
    # the first draft's state asks the index too, once for all layers of the walk
    assert seen.finish(4, 3) == pytest.approx(MEASURED.finish(4, 3) - MEASURED.trace + MEASURED.lookup)
    assert seen.step(4, 6) == MEASURED.step(4, 6)


def test_a_rule_that_does_not_look_pays_for_its_layers_alone():
    for rule, layer in ((LayerSkip(5, 3), 5), (PromptLookup(3), 0)):
        costs = MEASURED.for_rule(rule)
        looking = costs.step(0, layer)
        spent = looking + 2 * costs.draft(layer) + costs.finish(layer, 3)
        assert spent == pytest.approx(MEASURED.fixed(layer, 3))
    lite = MEASURED.for_rule(Lite({2: 0.5, 4: 0.5}))
    assert lite.draft(4) == pytest.approx(MEASURED.draft(4) - MEASURED.lookup)
    assert lite.finish(4, 3) == pytest.approx(MEASURED.finish(4, 3) - MEASURED.index - MEASURED.trace)


HERE = {"type": "cpu", "name": "this processor", "threads": 2}


@pytest.mark.parametrize(
    ("runs", "chosen", "words"),
    [
        # (processor, threads, dtype), oldest first
        ([("this processor", 2, "bfloat16"), ("this processor", 2, "bfloat16")], 1, "(this device)"),
        ([("this processor", 2, "bfloat16"), ("another", 2, "bfloat16")], 0, "(this device)"),
        ([("this processor", 2, "bfloat16"), ("this processor", 8, "bfloat16")], 0, "(this device)"),
        ([("this processor", 8, "bfloat16"), ("another", 2, "bfloat16")], 0, "(this device, with other threads)"),
        ([("another", 2, "bfloat16"), ("a third", 2, "bfloat16")], 1, "a third, 2 threads, bfloat16"),
    ],
)
def test_the_costs_of_this_device_are_chosen_else_the_newest(tmp_path, monkeypatch, runs, chosen, words):
    monkeypatch.setattr("lede.simulate.costs.device_facts", lambda: HERE | {"threads": 1})
    monkeypatch.setattr("lede.decode.threads.usual_threads", lambda *shape: HERE["threads"])  # what decoding uses
    write_dataset(tmp_path / "d", episodes=1, seed=0)
    for path in (tmp_path / "d" / "runs").glob("*.json"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "costs"}))
    with pytest.raises(DatasetError, match="no measured costs: measure its model's with `lede calibrate`"):
        dataset_costs(open_dataset(tmp_path / "d"))
    for number, (name, threads, dtype) in enumerate(runs):
        told = {
            "device": {"type": "cpu", "name": name, "threads": threads},
            "costs": replace(MEASURED, round=float(number)).to_json(),
        }
        start_run(tmp_path / "d", {"dtype": dtype, "number": number}, told, new_run=True)
        for path in (tmp_path / "d" / "runs").glob("*.json"):
            run = json.loads(path.read_text())
            if run["arguments"].get("number") == number:
                path.write_text(json.dumps(run | {"started": f"2026-01-0{number + 1}T00:00:00+00:00"}))
    costs, told = dataset_costs(open_dataset(tmp_path / "d"))
    assert costs.round == chosen
    assert words in told
    assert costs_device(open_dataset(tmp_path / "d")) == dict(type="cpu", name=runs[chosen][0], threads=runs[chosen][1])
