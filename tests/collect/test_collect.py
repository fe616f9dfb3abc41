"""What the collector writes: every row follows from the episode's text, and the same arguments give the same rows."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from lede import replay
from lede.collect.collector import default_layers, describe_source
from lede.collect.errors import PromptError
from lede.collect.prompts import Prompt
from lede.decode.errors import ModelError
from lede.decode.lookup import Lookup
from lede.policy import Policy
from tests.collect.small import CONFIG, PROMPTS, collected, same, tables, tiny_model

SHARED = (
    "conf_topk",
    "entropy",
    "conf_trace",
    "margin",
    "top1_logp",
    "lookup_length",
    "lookup_agreement",
    "lookup_match",
    "draft_token",
    "target_token",
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("collect") / "data"
    counts = collected(out)
    assert (counts.planned, counts.resumed, counts.episodes, counts.skipped) == (7, 0, 7, 0)
    return out


@pytest.fixture(scope="module")
def rows(dataset) -> dict[str, pl.DataFrame]:
    found = tables(dataset)
    assert len(found["transitions"]) > 200
    return found


def rounds(rows):
    """(episode row, round number, the round's rows as dicts) of every round with decisions."""
    episodes = {e["episode"]: e for e in rows["episodes"].iter_rows(named=True)}
    for (episode, number), part in rows["transitions"].group_by(["episode", "round"], maintain_order=True):
        yield episodes[episode], number, part.rows(named=True)


def test_the_integrity_check_has_nothing_to_say(dataset):
    assert replay.verify(dataset) == []


def test_episodes_say_what_was_written(rows):
    model = tiny_model()
    for row in rows["episodes"].iter_rows(named=True):
        prompt = PROMPTS[row["episode"] % len(PROMPTS)]
        assert (row["prompt_id"], row["task"]) == (prompt.id, "test")
        assert model.tokenizer.decode(row["prompt_tokens"]) == prompt.text
        mine = rows["transitions"].filter(episode=row["episode"])
        drafts = mine.filter((pl.col("phase") == 1) | (pl.col("action") == 1))
        assert row["drafted"] == len(drafts)
        assert row["accepted"] == drafts["accepted"].sum()
        assert row["finish"] == ("stop" if row["output_tokens"][-1] in model.stop_tokens else "length")
        assert row["rounds"] + row["accepted"] >= len(row["output_tokens"])
    texts = {(row["prompt_id"], *row["output_tokens"]) for row in rows["episodes"].iter_rows(named=True)}
    assert len(texts) == len(PROMPTS)  # greedy: whatever is explored, the text is the prompt's own
    assert rows["episodes"]["seed"].n_unique() == len(rows["episodes"])


def test_a_round_walks_up_then_drafts_at_its_exit_layer_then_stops(rows):
    for _, _, decisions in rounds(rows):
        walk = [d for d in decisions if d["phase"] == 0]
        drafts = decisions[len(walk) :]
        assert [d["step"] for d in decisions] == list(range(len(decisions)))
        assert [d["chain"] for d in decisions] == [0] * len(walk) + list(range(1, len(drafts) + 1))
        assert [d["draft_index"] for d in decisions] == [1] * len(walk) + list(range(2, len(drafts) + 2))
        assert [d["layer"] for d in walk] == [0, 1, 2][[0, 1, 2].index(walk[0]["layer"]) :][: len(walk)]
        assert walk[0]["layer"] == 0 or walk[0]["lookup_length"] == 0  # layer 0 is skipped where nothing matches
        assert [d["action"] for d in walk] == [0] * (len(walk) - 1) + [1]
        assert all(d["forced"] == (d["layer"] == 2) for d in walk)  # the last candidate must exit
        assert {d["layer"] for d in drafts} <= {walk[-1]["layer"]}
        assert [d["action"] for d in drafts] == [1] * (len(drafts) - 1) + [0] * bool(drafts)
        assert not any(d["forced"] for d in drafts[:-1])
        if drafts and drafts[-1]["draft_index"] == 12:
            assert drafts[-1]["forced"]
        assert len({d["position"] - d["draft_index"] for d in decisions}) == 1
        assert all(d["propensity"] == 1 if d["forced"] else 0.05 <= d["propensity"] < 1 for d in decisions)
        last = decisions[-1]
        assert [d["terminal"] or d["truncated"] for d in decisions] == [False] * (len(decisions) - 1) + [True]
        chosen = last["phase"] == 1 and (not last["forced"] or last["draft_index"] == 12)
        assert last["truncated"] == (not chosen)  # the text's end cut it


def test_accepted_is_what_the_text_says(rows):
    for episode, _, decisions in rounds(rows):
        text = episode["prompt_tokens"] + episode["output_tokens"]
        prefix_right = True
        for d in decisions:
            drafted = d["phase"] == 1 or d["action"] == 1
            right = d["draft_token"] == d["target_token"]
            if prefix_right and d["position"] < len(text):
                assert d["target_token"] == text[d["position"]]
            assert d["accepted"] == (right and prefix_right)
            prefix_right &= right or not drafted


def test_what_layer_0_drafts_can_be_told_from_the_text(rows):
    for episode, _, decisions in rounds(rows):
        text = episode["prompt_tokens"] + episode["output_tokens"]
        prefix = text[: decisions[0]["position"]]
        for d in decisions:
            guess = Lookup(prefix).guess()
            assert d["lookup_length"] == (guess.length if guess else 0)
            if d["layer"] == 0:
                assert d["draft_token"] == guess.token
            if d["phase"] == 1 or d["action"] == 1:
                prefix = [*prefix, d["draft_token"]]


def test_sweeps_are_what_the_walks_saw(rows):
    """At the same episode, position and layer a sweep has what the decision had, to the last bit."""
    walk = rows["transitions"].filter(pl.col("phase") == 0)
    both = walk.join(rows["sweeps"], on=["episode", "position", "layer"], suffix="_sweep")
    assert len(both) == len(walk) > 100
    for name in SHARED:
        assert both[name].equals(both[f"{name}_sweep"], check_names=False), name


def test_sweeps_cover_every_candidate_at_every_token(rows):
    for row in rows["episodes"].iter_rows(named=True):
        mine = rows["sweeps"].filter(episode=row["episode"])
        first = len(row["prompt_tokens"])
        for layer in (1, 2):
            part = mine.filter(layer=layer)
            assert part["position"].to_list() == list(range(first, first + len(row["output_tokens"])))
            assert part["target_token"].to_list() == row["output_tokens"]


@pytest.mark.parametrize("explore", ["uniform", "noisy"])
def test_the_same_arguments_give_the_same_rows(tmp_path, explore):
    config = replace(CONFIG, episodes=3, explore=explore, temperature=0.8, sweep=False)
    for name in ("a", "b"):
        collected(tmp_path / name, config)
    assert same(tables(tmp_path / "a"), tables(tmp_path / "b"))
    collected(tmp_path / "c", replace(config, seed=4))
    assert not same(tables(tmp_path / "a"), tables(tmp_path / "c"))


def test_more_episodes_go_on_where_the_first_ended(dataset, tmp_path):
    collected(tmp_path / "data", replace(CONFIG, episodes=3))
    counts = collected(tmp_path / "data", CONFIG)
    assert (counts.resumed, counts.episodes) == (3, 4)
    assert same(tables(tmp_path / "data"), tables(dataset))
    again = collected(tmp_path / "data", CONFIG)
    assert (again.resumed, again.episodes) == (7, 0)


def test_other_arguments_are_refused_by_name_unless_a_new_run_is_wanted(tmp_path):
    config = replace(CONFIG, episodes=2)
    collected(tmp_path, config, source=describe_source(PROMPTS))
    for changes, name in (
        ({"seed": 9}, "seed"),
        ({"max_new_tokens": 9}, "max_new_tokens"),
        ({"explore": "noisy"}, "explore"),
    ):
        with pytest.raises(replay.DatasetError, match=rf"\b{name} is .* --new-run"):
            collected(tmp_path, replace(config, **changes), source=describe_source(PROMPTS))
    with pytest.raises(replay.DatasetError, match=r"\bprompts is .* --new-run"):
        collected(tmp_path, config, source=describe_source(PROMPTS[:1]))
    with pytest.raises(replay.DatasetError, match="layers"):
        collected(tmp_path, replace(config, layers=(1, 2)), new_run=True)  # candidates belong to the whole dataset
    collected(tmp_path, replace(config, seed=9), source=describe_source(PROMPTS), new_run=True)
    assert len(replay.open_dataset(tmp_path).runs) == 2
    assert replay.verify(tmp_path) == []
    assert tables(tmp_path)["episodes"].group_by("run").len()["len"].to_list() == [2, 2]


def test_prompts_without_room_are_left_out_and_counted(tmp_path):
    long = Prompt("long", "test", "x" * 300)
    counts = collected(tmp_path, replace(CONFIG, episodes=4), prompts=[PROMPTS[0], long])
    assert (counts.episodes, counts.skipped) == (2, 2)
    with pytest.raises(PromptError, match="no prompts"):
        collected(tmp_path, CONFIG, prompts=[])


def test_candidates_are_checked_before_anything_is_written(tmp_path):
    with pytest.raises(ModelError, match="layers 4: give layers from 1 to 3"):
        collected(tmp_path / "data", replace(CONFIG, layers=(1, 4)))
    assert not (tmp_path / "data").exists()


def never_exits(layers: tuple[int, ...], max_drafts: int) -> Policy:
    """Exits nowhere and never stops: all that it explores comes from ε."""
    weights = np.array([[0.0], [2.0]], np.float32), np.array([0.0, -1.0], np.float32)
    return Policy(("phase",), layers, (weights,), np.zeros(1), np.ones(1), {"max_drafts": max_drafts})


def test_exploring_around_a_policy_that_may_bypass_and_drafts_long(tmp_path):
    """Its rows go into the dataset of the same candidates, with its draft limit, and a bypass ends a round."""
    config = replace(CONFIG, episodes=3, max_drafts=None, max_new_tokens=60)
    collected(tmp_path, config)
    collected(
        tmp_path, replace(config, explore="epsilon", epsilon=0.5), policy=never_exits((0, 1, 2, 4), 20), new_run=True
    )
    dataset = replay.open_dataset(tmp_path)
    limits = {run["arguments"]["explore"]: run["arguments"]["max_drafts"] for run in dataset.runs}
    assert limits == {"uniform": 31, "epsilon": 20}
    assert replay.verify(tmp_path) == []
    run = next(run["id"] for run in dataset.runs if run["arguments"]["explore"] == "epsilon")
    rows = dataset.transitions.filter(run=run).collect()
    assert not rows.filter(pl.col("phase") == 0)["forced"].any()
    bypassed = rows.filter(phase=0, layer=2, action=0)
    assert len(bypassed) > 10
    assert bypassed["terminal"].all()
    assert 12 < rows["draft_index"].max() <= 20
    assert dataset.transitions.filter(pl.col("run") != run).collect()["draft_index"].max() > 20
    for horizon in ("walk", "round"):
        columns = dataset.columns(horizon, features="extended")
        ends = columns.chain_starts[1:] - 1
        bypasses = (columns.actions[ends] == 0) & (columns.raw["phase"][ends] == 0)
        assert bypasses.sum() == len(bypassed)
        assert columns.terminals[ends][bypasses].all() and not columns.truncated[bypasses].any()
        assert columns.truncated.sum() == (rows_truncated(dataset) if horizon == "round" else 0)
    report = replay.inspect_dataset(tmp_path)
    assert report["draft_lengths"][0] == len(bypassed)
    assert sum(n * count for n, count in enumerate(report["draft_lengths"])) == report["counts"]["drafted"]


def rows_truncated(dataset: replay.Dataset) -> int:
    return int(dataset.transitions.collect()["truncated"].sum())


def test_the_paper_s_exploration_walks_real_layers_and_drafts_twelve(tmp_path):
    collected(tmp_path, replace(CONFIG, episodes=2, layers=None, max_drafts=None, explore="noisy"))
    dataset = replay.open_dataset(tmp_path)
    assert dataset.layers == (1,)  # of a model of four layers
    assert dataset.runs[0]["arguments"]["max_drafts"] == 12
    assert dataset.transitions.collect()["layer"].unique().to_list() == [1]


def test_default_candidates_are_the_lookup_and_exits_around_a_quarter():
    assert default_layers(16) == (0, 3, 4, 6)
    assert default_layers(32) == (0, 6, 8, 12)
    assert default_layers(32, "noisy") == (6, 8, 12)
    assert default_layers(30, heads=(4, 8)) == (0, 4, 8)
    assert all(max(default_layers(n)) < n for n in range(2, 50))
