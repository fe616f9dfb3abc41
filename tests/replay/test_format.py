"""Format 1 is read by every later version: a dataset of its first days, and literally what is in it.

Nothing here may change when the format grows; a new column gets a value for files that lack it.
"""

import json
import shutil
from pathlib import Path

import pytest

from lede import replay
from lede.ground import fingerprint
from lede.replay.split import episode_splits
from lede.simulate.costs import dataset_costs
from tests.replay.synthetic import COSTS, facts, make_episode

FORMAT_1 = Path(__file__).parent / "format-1"
STATE = (
    *("conf_topk", "entropy", "conf_trace", "margin", "top1_logp", "draft_logp", "accept_trace"),
    *("lookup_length", "lookup_agreement", "lookup_match"),
)
COLUMNS = {
    "episodes": (
        *("episode", "prompt_id", "task", "prompt_tokens", "output_tokens", "seed", "rounds", "drafted", "accepted"),
        *("seconds", "finish", "split", "group"),
    ),
    "sweeps": (
        *("episode", "position", "layer", "conf_topk", "entropy", "conf_trace", "margin", "top1_logp"),
        *("lookup_length", "lookup_agreement", "lookup_match", "draft_token", "target_token"),
    ),
    "transitions": (
        *("episode", "round", "chain", "step", "position", "phase", "layer", "draft_index", "forced", *STATE),
        *("action", "propensity", "reward", *(f"next_{name}" for name in STATE), "terminal", "truncated"),
        *("draft_token", "target_token", "accepted"),
    ),
}
VALUES = {  # rows, and a hash of them
    "episodes": (5, "8ef5566efb85a023"),
    "sweeps": (399, "e2abc066712e428b"),
    "transitions": (262, "dcbeb86737e73af8"),
}


@pytest.mark.parametrize("table", COLUMNS)
def test_every_value_of_format_1_is_read(table: str) -> None:
    frame = getattr(replay.open_dataset(FORMAT_1), table).collect()
    rows = frame.select("run", *COLUMNS[table]).rows()
    assert (len(rows), fingerprint(json.dumps(rows))) == VALUES[table]


def test_format_1_is_whole_and_learned_from() -> None:
    assert replay.verify(FORMAT_1) == []
    assert sum(path.stat().st_size for path in FORMAT_1.rglob("*") if path.is_file()) < 50_000
    dataset = replay.open_dataset(FORMAT_1)
    assert dataset_costs(dataset)[0] == COSTS
    assert episode_splits(dataset).split.tolist() == ["train", "train", "train", "validation", "test"]
    columns = dataset.columns(horizon="round", features="extended")
    assert columns.feature_names[:10] == STATE and columns.layers == (0, 4, 8)


def test_columns_that_format_1_lacks_are_those_of_greedy_text(tmp_path: Path) -> None:
    """In frames, arrays and compacted files alike."""
    path = shutil.copytree(FORMAT_1, tmp_path / "data")
    sampled = ("token_logp", "noise", "noise_margin", "temperature")
    for _ in ("as it is", "compacted"):
        dataset = replay.open_dataset(path)
        settings = dataset.episodes.select("temperature", "top_k", "top_p", "options").collect()
        assert set(settings.rows()) == {(0.0, 0, 1.0, "")}
        for frame, names in ((dataset.sweeps, sampled), (dataset.transitions, [*sampled, "next_noise"])):
            assert set(frame.select(names).collect().rows()) == {(0.0,) * len(names)}
        columns = dataset.columns(horizon="round", features="extended")
        assert columns.feature_names[10:14] == sampled
        assert not columns.observations[:, 10:14].any() and not columns.raw["temperature"].any()
        with replay.EpisodeWriter(replay.start_run(path, {"seed": 0}, facts())) as writer:
            if 7 not in writer.run.committed():
                writer.add(*make_episode(7, 0, (0, 4, 8), with_sweeps=True))
        replay.compact_dataset(path)
        assert replay.verify(path) == []


def test_format_1_is_written_on(tmp_path: Path) -> None:
    path = shutil.copytree(FORMAT_1, tmp_path / "data")
    run = replay.start_run(path, {"seed": 0}, facts())
    assert run.committed() == {0, 1, 2, 3, 4}
    with replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(5, 0, (0, 4, 8), with_sweeps=True))
    assert replay.verify(path) == []
    assert replay.open_dataset(path).episodes.collect().height == 6


@pytest.mark.parametrize(("needs", "told"), [({"needs": "9.1"}, "it needs lede 9.1 or later"), ({}, "another version")])
def test_a_later_format_says_which_version_it_needs(tmp_path: Path, needs: dict[str, str], told: str) -> None:
    path = shutil.copytree(FORMAT_1, tmp_path / "data")
    header = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps(header | {"format": 2} | needs))
    for use in (replay.open_dataset, replay.verify, lambda path: replay.open_for_writing(path, header)):
        with pytest.raises(replay.DatasetError, match=rf"dataset\.json has format 2, .* reads 1: .*{told}"):
            use(path)
