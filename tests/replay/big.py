"""The store and learning from it at a million rows and more: `python -m tests.replay.big --rows 1,10`.

Rows are those of 2,000 made-up episodes (`synthetic`), numbered and scaled anew until there are enough. Each step runs
in a process of its own, so that its peak memory is its own. One JSON object per size, and what machine it was.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EPISODES = 2_000


def write(path: Path, rows: int, sweeps: int = 0) -> dict[str, Any]:
    from lede.decode.state import rounded
    from lede.replay import EpisodeWriter
    from lede.replay.schema import STATE
    from tests.replay.synthetic import make_episode, start

    pool = [make_episode(number, 0, (4, 6, 8), bool(sweeps), max_new_tokens=200) for number in range(EPISODES)]
    first = {id(table): dict(table) for _, *tables in pool for table in tables if table}
    begun, written, number = time.perf_counter(), 0, 0
    with EpisodeWriter(start(path, layers=(4, 6, 8))) as writer:
        while written < rows:
            episode, columns, swept = pool[number % EPISODES]
            for table in filter(None, (columns, swept)):
                table["episode"] = np.full(len(table["layer"]), number)
                scale = 1 - number // EPISODES % 1_000 / 2_000  # else zstd would find the same rows again
                scaled = {name: first[id(table)][name].astype(float) * scale for name in STATE if name in table}
                table.update({name: rounded(values) for name, values in scaled.items()})
            group = f"text {number % EPISODES}"
            writer.add(
                episode | {"episode": number, "prompt_id": f"synthetic:{number}", "group": group}, columns, swept
            )
            written, number = written + len(columns["step"]), number + 1
    seconds = time.perf_counter() - begun
    size = sum(file.stat().st_size for file in (path / "transitions").rglob("*.parquet"))
    return {"rows": written, "rows/s": round(written / seconds), "bytes/row": round(size / written, 1)}


def scan(path: Path) -> dict[str, Any]:
    import polars as pl

    begun = time.perf_counter()
    frame = pl.scan_parquet(path / "transitions")
    height = frame.select(pl.len()).collect().item()
    counted = time.perf_counter()
    kept = frame.filter(pl.col("layer") == 4, pl.col("accepted")).select(pl.col("entropy").mean(), pl.len()).collect()
    filtered = time.perf_counter()
    return {"rows": height, "count s": counted - begun, "filter s": filtered - counted, "kept": kept["len"][0]}


def load(path: Path) -> dict[str, Any]:
    from lede.replay import open_dataset

    begun = time.perf_counter()
    columns = open_dataset(path).columns("round", "paper")
    arrays = [columns.observations, columns.actions, columns.rewards, columns.terminals, columns.propensities]
    held = sum(array.nbytes for array in (*arrays, columns.episodes, *columns.raw.values()))
    return {"s": time.perf_counter() - begun, "bytes/row held": round(held / len(columns.actions), 1)}


def learn(path: Path, memory: str, source: str = "log", updates: int = 3_000) -> dict[str, Any]:
    from lede.commands.options import parse_bytes
    from lede.learn.config import LearnConfig
    from lede.learn.train import learn as run

    begun, at = time.perf_counter(), []
    config = LearnConfig(source=source, updates=updates, memory=parse_bytes(memory) if memory else None)
    result = run(path, path.with_name("policy"), config, lambda step, score: at.append(time.perf_counter()))
    spent = time.perf_counter()
    told = {"parts": len(result.data.windows), "before the first update and score s": at[0] - begun}
    return told | {"updates/s with all else": round(updates / (spent - begun)), "reward": result.score.reward}


def export(path: Path, target: str) -> dict[str, Any]:
    out = path.with_name(target)
    begun = time.perf_counter()
    command = [sys.executable, "-m", "lede", "export", str(out), "--to", target, "--dataset", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"refused": done.stderr.strip()}
    size = sum(file.stat().st_size for file in ([out] if out.is_file() else out.rglob("*")) if file.is_file())
    shutil.rmtree(out, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    return {"s": time.perf_counter() - begun, "MB": size / 1e6, "peak GB of the export": peak}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {f.__name__: f for f in (write, scan, load, learn, export)}


def step(name: str, *arguments: object) -> dict[str, Any]:
    """Run one step in a process of its own; what it found, and its peak memory in GB."""
    command = [sys.executable, "-m", "tests.replay.big", "--step", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1", help="millions of rows, such as 1,10,100")
    parser.add_argument("--folder", default="big", help="emptied for each size")
    parser.add_argument("--memory", default="4GB", help="for learning, beside learning without a limit")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        name, path, *more = given.step
        found = STEPS[name](Path(path), *(int(one) if one.isdigit() else one for one in more))
        print(json.dumps(found | {"peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
        return
    for millions in map(float, given.rows.split(",")):
        path = Path(given.folder, "data")
        shutil.rmtree(path, ignore_errors=True)
        found = {"write": step("write", path, int(millions * 1e6)), "scan": step("scan", path)}
        if millions <= 10:
            found |= {"load": step("load", path), "learn": step("learn", path, "")}
        found[f"learn in {given.memory}"] = step("learn", path, given.memory)
        if millions <= 1:
            found |= {f"to {target}": step("export", path, target) for target in ("d3rlpy", "minari")}
        print(json.dumps({"million rows": millions} | found, indent=2), flush=True)


if __name__ == "__main__":
    main()
