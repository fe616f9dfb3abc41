"""The policy artefact: round trip, speed, and an exact complaint for everything that can be wrong with one."""

import hashlib
import json
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import save

from lede.policy import Policy, PolicyError, check_fits, load_policy

MODEL = {"name": "toy", "config_hash": "abc", "layers": 8, "vocab": 10, "revision": "main"}


def make(features=("conf_topk", "entropy", "conf_trace"), layers=(2, 4), hidden=(64, 64), seed=0, **changes) -> Policy:
    rng = np.random.default_rng(seed)
    sizes = [len(features), *hidden, 2]
    weights = tuple(
        (rng.normal(size=(o, i)).astype(np.float32), rng.normal(size=o).astype(np.float32)) for i, o in pairwise(sizes)
    )
    fields = {
        "features": tuple(features),
        "layers": tuple(layers),
        "weights": weights,
        "mean": rng.normal(size=len(features)).astype(np.float32),
        "scale": rng.uniform(0.5, 2, size=len(features)).astype(np.float32),
        "info": {"model": MODEL, "hyperparameters": {"seed": seed}},
    }
    return Policy(**(fields | changes))


def by_hand(policy: Policy, rows: np.ndarray) -> np.ndarray:
    x = (rows - policy.mean) / policy.scale
    for weight, bias in policy.weights[:-1]:
        x = np.maximum(x @ weight.T + bias, 0)
    weight, bias = policy.weights[-1]
    return x @ weight.T + bias


def test_values_are_the_network_of_standardised_inputs():
    policy = make()
    rows = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    kept = rows.copy()
    np.testing.assert_allclose(policy.values(rows), by_hand(policy, rows), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose([policy.values(row) for row in rows], policy.values(rows), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(rows, kept)
    assert [bool(policy.exits(row)) for row in rows] == list(policy.exits(rows))


def test_a_single_layer_leaves_its_input_alone():
    policy, row = make(hidden=()), np.ones(3, np.float32)
    np.testing.assert_allclose(policy.values(row), by_hand(policy, row), rtol=1e-5)
    assert (row == 1).all()


def test_a_tie_continues():
    assert not make(weights=((np.zeros((2, 3), np.float32), np.zeros(2, np.float32)),)).exits(np.ones(3, np.float32))


def test_round_trip(tmp_path):
    policy = make()
    policy.save(tmp_path / "p")
    again = load_policy(tmp_path / "p")
    assert (again.features, again.layers, again.info) == (policy.features, policy.layers, policy.info)
    row = np.ones(3, np.float32)
    np.testing.assert_array_equal(policy.values(row), again.values(row))
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["policy.json", "policy.safetensors"]
    make(seed=2).save(tmp_path / "p")
    assert load_policy(tmp_path / "p").info["hyperparameters"] == {"seed": 2}


def edit(folder, **changes):
    facts = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(facts | changes))


def replace_weights(folder, tensors):
    blob = save(tensors) if isinstance(tensors, dict) else tensors
    (folder / "policy.safetensors").write_bytes(blob)
    edit(folder, weights_sha256=hashlib.sha256(blob).hexdigest())


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda f: (f / "policy.json").unlink(), "not a policy: policy.json is missing"),
        (lambda f: (f / "policy.safetensors").unlink(), "not a policy: policy.safetensors is missing"),
        (lambda f: (f / "policy.json").write_text("{"), "not a policy description"),
        (lambda f: (f / "policy.json").write_text("[]"), "not a policy description"),
        (lambda f: edit(f, format=2), "format 2.*reads up to 1"),
        (
            lambda f: edit(f, features=["conf_topk"]),
            "mean and scale must have 1 numbers",
        ),
        (lambda f: edit(f, features=["entropy", "layer=2", "layer=3"]), "not its candidates"),
        (lambda f: edit(f, layers=[4, 2]), "ascending"),
        (lambda f: edit(f, layers=3), "malformed"),
        (lambda f: (f / "policy.safetensors").write_bytes(b"junk"), "not the file policy.json was written with"),
        (lambda f: replace_weights(f, b"junk"), "not a safetensors file"),
        (lambda f: replace_weights(f, {"mean": np.zeros(3, np.float32)}), "'scale' is missing"),
    ],
)
def test_loading_names_what_is_wrong(tmp_path, damage, complaint):
    make().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(PolicyError, match=complaint):
        load_policy(tmp_path)


def test_a_missing_folder(tmp_path):
    with pytest.raises(PolicyError, match="no such folder"):
        load_policy(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weights": ()}, "two outputs"),
        ({"weights": ((np.zeros((3, 3), np.float32), np.zeros(3, np.float32)),)}, "two outputs"),
        ({"weights": ((np.zeros((2, 4), np.float32), np.zeros(2, np.float32)),)}, "3 inputs"),
        ({"weights": ((np.full((2, 3), np.nan, np.float32), np.zeros(2, np.float32)),)}, "not a finite number"),
        ({"scale": np.zeros(3, np.float32)}, "above 0"),
    ],
)
def test_wrong_shapes_and_numbers_are_refused(changes, complaint):
    with pytest.raises(PolicyError, match=complaint):
        make(**changes)


def test_fits_its_own_model_only():
    policy = make()
    check_fits(policy, MODEL)
    check_fits(policy, MODEL | {"name": "./a/local/copy"})
    with pytest.raises(PolicyError, match=r"toy with another number of layers \(8\) than big has \(16\)"):
        check_fits(policy, {"name": "big", "config_hash": "abc", "layers": 16})
    with pytest.raises(PolicyError, match=r"toy with another architecture \(abc\) than other has \(xyz\)"):
        check_fits(policy, {"name": "other", "config_hash": "xyz", "layers": 8})
    with pytest.raises(PolicyError, match="unnamed"):
        check_fits(make(info={}), MODEL)
    with pytest.raises(PolicyError, match="exits at layer 9"):
        check_fits(make(layers=(2, 9)), MODEL)


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("weights_hash", "for toy with other weights (one) than ./toy has (two)"),
        ("config_hash_v2", "for toy with another head size or rotary embedding (one) than ./toy has (two)"),
    ],
)
def test_what_is_known_of_the_model_must_agree(key, complaint):
    policy = make(info={"model": MODEL | {key: "one"}})
    check_fits(policy, MODEL | {key: "one", "name": "./toy"})
    for its, facts in ((policy, MODEL), (make(), MODEL | {key: "two"})):
        with pytest.raises(PolicyError, match=re.escape(complaint.split(" (")[0])):
            check_fits(its, facts)
    with pytest.raises(PolicyError, match=re.escape(complaint)):
        check_fits(policy, MODEL | {key: "two", "name": "./toy"})


def test_heads_and_vocabulary_must_be_those_it_was_learned_with(tmp_path):
    """States come from them: unlike what else is told of a model, none is as good a reason as another one."""
    heads, vocabulary = {"exits": "abc"}, {"draft_vocabulary": {"size": 3, "hash": "f00"}}
    for told, cure in ((heads, "give its exit heads with --exits"), (vocabulary, "policy's draft vocabulary")):
        policy = make(info={"model": MODEL | told}, draft_vocabulary=(1, 5, 7))
        check_fits(policy, MODEL | told)
        for its, models in ((policy, MODEL), (make(), MODEL | told)):
            with pytest.raises(PolicyError, match=cure):
                check_fits(its, models)
        check_fits(make(info=policy.info, layers=(0, 8)), MODEL)  # layer 0 drafts with neither
    policy.save(tmp_path)
    assert load_policy(tmp_path).draft_vocabulary == (1, 5, 7)


def test_needs_neither_torch_nor_d3rlpy():
    code = "import sys, lede.policy; assert not {'torch', 'd3rlpy', 'polars', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
