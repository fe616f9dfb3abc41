"""Learning within a limit of memory: part by part, every training text in turn, and as well as from everything."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lede.cli import app
from lede.commands.options import parse_bytes
from lede.learn.config import LearnConfig
from lede.learn.data import LOG_BYTES, SWEEP_BYTES, Data, process_bytes
from lede.learn.errors import LearnError
from lede.learn.train import train
from lede.replay import open_dataset
from tests.replay.synthetic import write_dataset
from tests.replay.test_crash import run_python


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "data"
    for seed in (0, 1):
        write_dataset(path, 60, seed=seed, with_sweeps=True, flush_rows=200)
    return path


def limit(path: Path, parts: float) -> int:
    """Bytes that leave room for one of so many parts."""
    dataset = open_dataset(path)
    whole = LOG_BYTES * dataset.rows("transitions") + SWEEP_BYTES * dataset.rows("sweeps")
    return process_bytes() + int(whole / parts)


@pytest.mark.parametrize("source", ["log", "sweeps"])
def test_every_training_text_has_its_turn_and_held_out_ones_stay(store: Path, source: str) -> None:
    whole = Data(open_dataset(store), LearnConfig(source=source))  # type: ignore[arg-type]
    data = Data(open_dataset(store), LearnConfig(source=source, memory=limit(store, 3.5)))  # type: ignore[arg-type]
    assert len(data.windows) in (4, 5)

    def episodes(of: Data, side: str) -> list[int]:
        found = of.texts(side).numbers if source == "sweeps" else of.rounds(side).episodes  # type: ignore[arg-type]
        return sorted(set(found.tolist()))

    seen, held_out = [], episodes(data, "validation")
    for _ in data.windows:
        seen += episodes(data, "train")
        assert episodes(data, "validation") == held_out and not {*seen} & {*held_out}
        assert data.advance()
    assert sorted(seen) == episodes(whole, "train")
    assert {*held_out} < {*episodes(whole, "validation")}
    assert not whole.advance()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"source": "log"}, {}, {"algorithm": "fitted"}])
def test_a_policy_learned_part_by_part_is_as_good(store: Path, tmp_path: Path, options: dict[str, str]) -> None:
    def learned(memory: int | None) -> float:
        settings = {"updates": 600, "score_every": 60, "memory": memory, **options}
        if "algorithm" in options:
            settings |= {"updates": 100, "score_every": 20, "learning_rate": 1e-2}
        result = train(Data(open_dataset(store), LearnConfig(**settings)), tmp_path)  # type: ignore[arg-type]
        assert len(result.data.windows) == 1 if memory is None else len(result.data.windows) > 1
        everything = Data(open_dataset(store), LearnConfig(**options))  # type: ignore[arg-type]
        return everything.score(result.policy, "test", everything.static.rate).rate  # type: ignore[union-attr]

    assert learned(limit(store, 2.5)) == pytest.approx(learned(None), rel=0.1)


PEAK = """
import json, resource, sys
from pathlib import Path
from lede.learn.config import LearnConfig
from lede.learn.data import process_bytes
from lede.learn.train import learn
from tests.replay.big import write

path, room = Path(sys.argv[1]), int(sys.argv[2])
write(path, 300_000)
write(path.with_name("small"), 5_000)
learn(path.with_name("small"), path.with_name("first"), LearnConfig(source="log", updates=1))
before = process_bytes()
config = LearnConfig(source="log", updates=200, score_every=40, memory=before + room)
result = learn(path, path.with_name("policy"), config)
print(json.dumps({"parts": len(result.data.windows), "more": process_bytes() - before}))
"""


@pytest.mark.slow
def test_memory_stays_within_the_limit(tmp_path: Path) -> None:
    with run_python(PEAK, tmp_path / "data", 80_000_000) as process:
        said, errors = process.communicate()
    assert process.returncode == 0, errors
    found = json.loads(said)
    assert found["parts"] >= 3 and found["more"] < 90_000_000  # all at once: 220 MB


def test_a_limit_that_is_none_or_too_small_is_named(store: Path, tmp_path: Path) -> None:
    assert parse_bytes("1.5 GiB") == int(1.5 * 2**30) and parse_bytes("500mb") == 500_000_000
    for size, said in (("much", "is no size"), ("1MB", "needs --memory ")):
        done = CliRunner().invoke(app, ["learn", "-d", str(store), "--out", str(tmp_path / "p"), "--memory", size])
        assert done.exit_code == 2 and said in " ".join(done.output.split())
    with pytest.raises(LearnError, match="needs --memory"):
        Data(open_dataset(store), LearnConfig(memory=process_bytes()))
    assert np.all(
        [part.window[1] == 3 for part in open_dataset(store).windows(open_dataset(store).rows("transitions") // 3 + 1)]
    )
