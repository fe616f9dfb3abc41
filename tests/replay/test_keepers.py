"""`lede verify`, `repair` and `merge`: what is wrong is found, set aside and collected again; datasets become one."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lede import replay
from lede.cli import app
from lede.replay.folder import Folder
from lede.replay.parquet import encode, parts_of
from lede.replay.store import File
from tests.collect.small import PROMPTS, collected, same, tables
from tests.replay.synthetic import make_episode, start, write_dataset
from tests.replay.test_crash import run_python
from tests.replay.test_integrity import DAMAGE, changed_arguments, edit, first, flip, no_description, tear
from tests.replay.test_store import expected_rows, stored_rows

EPISODES = 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", EPISODES, seed=0, with_sweeps=True, flush_rows=100)
    return tmp_path / "data"


def invoke(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done.output


def files(path: Path) -> set[bytes]:
    """The content of every Parquet file, wherever it is."""
    return {file.read_bytes() for file in path.rglob("*.parquet*")}


def refill(path: Path) -> None:
    """What the next collection with the same arguments does."""
    run = start(path)
    with replay.EpisodeWriter(run, flush_rows=100) as writer:
        for number in sorted(set(range(EPISODES)) - run.committed()):
            writer.add(*make_episode(number, with_sweeps=True))


def cut_rows(path: Path) -> None:
    """The last decision of an episode is gone, everything else is as it should be."""
    file = first(path, "transitions")
    rows = pq.read_table(file, partitioning=None)
    parts = parts_of(File(Folder(path), str(file.relative_to(path))))
    last = max(i for i, end in enumerate(rows["terminal"].to_pylist()) if end)
    start_of = max(i for i in range(last + 1) if rows["step"][i].as_py() == 0)
    file.write_bytes(encode(pa.concat_tables([rows.slice(0, start_of), rows.slice(last + 1)]), "transitions", parts))


def renumbered(path: Path) -> None:
    """A decision in the middle of a round is missing."""
    file = first(path, "transitions")
    at = pq.read_schema(file).get_field_index("step")
    edit(file, lambda rows: rows.set_column(at, "step", pa.array([2 * i for i in rows["step"].to_pylist()], "uint16")))


def undescribed(path: Path) -> None:
    """A row is missing from the episodes."""
    file = first(path, "episodes")
    edit(file, lambda rows: rows.slice(1))


def sweep_torn(path: Path) -> None:
    os.truncate(first(path, "sweeps"), 50)


MORE = [(cut_rows, "incomplete"), (renumbered, "values"), (undescribed, "incomplete"), (sweep_torn, "torn")]
CASES = [(damage, kind) for damage, kind, _ in DAMAGE if damage not in (no_description, changed_arguments)] + MORE


@pytest.mark.parametrize("compacted", [False, True], ids=["parts", "compacted"])
@pytest.mark.parametrize(("damage", "kind"), CASES, ids=[damage.__name__ for damage, _ in CASES])
def test_damage_is_found_set_aside_and_collected_again(
    path: Path, damage: Callable[[Path], object], kind: str, compacted: bool
) -> None:
    if compacted:
        replay.compact_dataset(path, max_rows=200)
        assert len(list(path.glob("transitions/*/*"))) > 1
    whole = stored_rows(path)
    assert json.loads(invoke("verify", path, "--json")) == {"dataset": str(path), "wrong": 0, "findings": []}
    damage(path)
    found = json.loads(invoke("verify", path, "--json", code=1))
    assert kind in {finding["kind"] for finding in found["findings"] if not finding["harmless"]}
    assert kind in invoke("verify", path, code=1)

    before = files(path)
    done = json.loads(invoke("repair", path, "--json"))
    assert done["moved"] and done["left"] == []
    assert files(path) == before  # nothing is deleted
    assert all(finding.harmless for finding in replay.verify(path))
    committed = start(path).committed()
    lost = {int(number): name for episodes in done["lost"].values() for number, name in episodes.items()}
    assert lost.keys() <= set(range(EPISODES)) - committed
    assert all(name in (f"synthetic:{number}", "") for number, name in lost.items())
    if not compacted:
        assert lost.keys() == set(range(EPISODES)) - committed
        assert len(committed) > EPISODES / 2
    assert stored_rows(path) == expected_rows(sorted(committed), 0)
    assert replay.open_dataset(path).episodes.collect().height == len(committed)

    refill(path)
    assert stored_rows(path) == whole
    assert replay.verify(path) == []
    assert pl.scan_parquet(path / "**/transitions/**/*.parquet").collect().height >= len(whole)


def test_a_damaged_collection_is_collected_again_with_the_same_arguments(tmp_path: Path) -> None:
    out = tmp_path / "data"
    collected(out)
    whole = tables(out)
    flip(out)
    done = replay.repair_dataset(out)
    assert {name for episodes in done.lost.values() for name in episodes.values()} == {p.id for p in PROMPTS}
    assert collected(out).episodes == 7
    assert same(tables(out), whole) and replay.verify(out) == []
    flip(out)
    replay.repair_dataset(out)
    assert len(list((out / ".damaged").rglob("part-0-00000.parquet*"))) == 6  # the second beside the first


def test_a_run_that_is_being_written_is_not_repaired(path: Path) -> None:
    tear(path)
    (path / ".damaged").mkdir()
    broken = first(path, "transitions")
    kept = broken.read_bytes()
    broken.unlink()
    with replay.EpisodeWriter(start(path)):
        broken.write_bytes(kept)
        assert "is being written, repair when its collector is done" in invoke("repair", path, code=2)
    assert broken.exists()


def test_a_description_that_cannot_be_read_is_written_again(path: Path) -> None:
    file = next((path / "runs").glob("*.json"))
    file.write_text("{")
    assert replay.repair_dataset(path).moved[0][0] == file
    start(path)
    assert replay.verify(path) == []


# --- merge -----------------------------------------------------------------------------------------------------------


def test_merged_datasets_hold_the_rows_of_both(path: Path, tmp_path: Path) -> None:
    other, both = tmp_path / "other", tmp_path / "both"
    write_dataset(other, 8, seed=1, with_sweeps=True, flush_rows=100)
    replay.compact_dataset(path)
    both.mkdir()  # an empty folder will do
    said = invoke("merge", path, other, "--out", both)
    one, two, merged = tables(path), tables(other), tables(both)
    assert said.startswith(f"20 episodes, {merged['transitions'].height:,} decisions")
    for name, frame in merged.items():
        keys = [key for key in ("run", "episode", "round", "step", "position", "layer") if key in frame.columns]
        assert frame.sort(keys).equals(pl.concat([one[name], two[name]]).sort(keys))
    assert replay.verify(both) == []
    assert len(replay.open_dataset(both).runs) == 2
    assert start(both).committed() == set(range(EPISODES))  # each run goes on where it was


def test_what_does_not_fit_is_not_merged(path: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"

    def refused() -> str:
        said = invoke("merge", path, other, "--out", out, code=2)
        assert not out.exists() and not list(tmp_path.glob(".out*"))
        return said

    write_dataset(other, 4, seed=1, layers=(4, 8), model_layers=12)
    said = refused()
    assert "layers is [4, 5, 6, 8] there, [4, 8] here" in said and "model.layers is 16 there, 12 here" in said
    shutil.rmtree(other)
    assert "other does not exist" in refused()
    shutil.copytree(path, other)
    assert "take only the one that has more of it" in refused()
    shutil.rmtree(other)
    write_dataset(other, 4, seed=1)
    tear(other)
    assert "other is damaged in 1 places: see lede verify" in refused()
    out.mkdir()
    (out / "notes.txt").touch()
    assert "is there already" in invoke("merge", path, "--out", out, code=2)


#: Forks children that merge and kill themselves before the n-th file, for n = 0, 1, … until one survives.
DYING_MERGE = """
import os, signal, sys
from lede import replay
import lede.replay.folder, lede.replay.merge

def mortal(function, life):
    def step(*args, **more):
        if life.pop() is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **more)
    return step

for number in range(50):
    if (child := os.fork()) == 0:
        life = [None] + [True] * number
        for name in ("stage", "publish"):
            setattr(replay.folder, name, mortal(getattr(replay.folder, name), life))
        replay.merge_datasets(sys.argv[2:], sys.argv[1])
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code, os.path.exists(sys.argv[1]))
    if code == 0:
        break
"""


@pytest.mark.slow
def test_a_merge_killed_anywhere_leaves_nothing_half(tmp_path: Path) -> None:
    write_dataset(tmp_path / "a", 3, seed=0)
    write_dataset(tmp_path / "b", 3, seed=1)
    with run_python(DYING_MERGE, tmp_path / "c", tmp_path / "a", tmp_path / "b") as process:
        assert process.stdout
        *killed, survived = [line.split() for line in process.stdout]
    files = 2 * len(["run", "episodes", "transitions"]) + len(["header"])
    steps = len(["stage", "publish"]) * files + len(["whole"])
    assert killed == [[str(-signal.SIGKILL), "False"]] * steps
    assert survived == ["0", "True"]
    assert replay.verify(tmp_path / "c") == []
    assert replay.open_dataset(tmp_path / "c").episodes.collect().height == 6
    assert not list(tmp_path.glob(".c*"))


@pytest.mark.parametrize("table", ["episodes", "transitions"])
def test_rows_of_a_merged_file_that_is_gone_are_never_collected_twice(path: Path, table: str) -> None:
    """Other tables still have rows of its parts: writers refuse, repair sets those aside, and then all is collected."""
    replay.compact_dataset(path, max_rows=150)
    assert len([*(path / "transitions").rglob("*.parquet")]) > 1
    first(path, table).unlink()
    with pytest.raises(replay.DatasetError, match=rf"{table} file is gone: .*lede repair"):
        refill(path)
    assert "missing" in {finding.kind for finding in replay.verify(path)}
    invoke("repair", path)
    refill(path)
    assert replay.verify(path) == []
    assert stored_rows(path) == expected_rows(list(range(EPISODES)), 0)


def test_an_orphan_that_vanishes_is_no_fault_of_the_dataset(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed writer removes what a died one left between a reader's, or another writer's, listing and opening."""
    orphan = first(path, "episodes").with_name("part-7-00000.parquet")
    orphan.write_bytes(first(path, "episodes").read_bytes())
    opened = parts_of

    def late(file: File) -> frozenset[str]:
        if file.path == orphan:
            orphan.unlink()
        return opened(file)

    monkeypatch.setattr("lede.replay.parts.parts_of", late)
    assert replay.open_dataset(path).episodes.collect().height == EPISODES
    assert not orphan.exists()
