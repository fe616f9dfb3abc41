"""A bench on disk: what was asked, what tuning chose, and a line for every prompt and method once it is measured.

    <folder>/<id>/run.json         what decides the numbers; the id is a short hash of it
                  tuning.json      measured costs and each method's parameters
                  <method>.jsonl   one sample a line

The same question finds its folder again and goes on from what is there; another question has another folder.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lede.bench.errors import BenchError
from lede.bench.measure import Sample
from lede.bench.names import TUNED
from lede.ground import fingerprint
from lede.replay.folder import Folder
from lede.replay.header import to_json

ROOT = Path(__file__).resolve().parents[1]
# The code that the numbers are of; tables and pictures may change without a prompt being measured again.
MEASURED_CODE = (
    *("decode", "lede/policy.py", "lede/process.py", "serve/generate.py", "bench/measure.py", "bench/methods.py"),
    *("bench/library.py", "bench/tune.py", "bench/llama_cpp.py", "simulate/baselines.py"),
)


class Store:
    """One run's folder."""

    def __init__(self, root: Path, question: Mapping[str, Any], fresh: bool = False):
        """Open the folder of `question` (JSON-ready) under `root`, or make it; `fresh` empties it first."""
        self.folder = root / fingerprint(json.dumps(question, sort_keys=True))[:8]
        if fresh:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        Folder(self.folder).replace("run.json", to_json(question))
        for path in self.folder.glob("*.jsonl"):  # a killed run leaves at most one torn line, the last
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(path, content.rfind(b"\n") + 1)
        self._tuning = self.folder / "tuning.json"

    def samples(self, methods: Iterable[str]) -> list[Sample]:
        """What these methods have been measured on. Raises BenchError for a file that is damaged or not ours."""
        samples = []
        for method in methods:
            path = self.folder / f"{method}.jsonl"
            for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
                try:
                    row: dict[str, Any] = json.loads(line)
                    samples.append(Sample(**row | {k: tuple(v) for k, v in row.items() if isinstance(v, list)}))
                except (ValueError, AttributeError, TypeError) as error:
                    raise BenchError(
                        f"{path}, line {number} is not a bench's result ({error}): measure with --fresh"
                    ) from None
        return samples

    def append(self, sample: Sample) -> None:
        """Write a sample down: it survives whatever happens to this process."""
        with open(self.folder / f"{sample.method}.jsonl", "ab", buffering=0) as file:
            file.write((json.dumps(asdict(sample)) + "\n").encode())  # the whole line in one write

    def tuned(self) -> dict[str, Any]:
        """What was measured or chosen before, by name."""
        try:
            return dict(json.loads(self._tuning.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise BenchError(f"{self._tuning} is damaged ({error}): measure with --fresh") from None

    def parameters(self, method: str) -> dict[str, Any]:
        """What tuning chose for a method; nothing for one without parameters."""
        return dict(self.tuned()[method]["parameters"]) if method in TUNED else {}

    def remember(self, name: str, value: Any) -> None:
        """Keep something that was measured or chosen for the next time."""
        Folder(self.folder).replace(self._tuning.name, to_json(self.tuned() | {name: value}))


@cache
def code_hash(parts: tuple[str, ...] = MEASURED_CODE) -> str:
    """Names files and folders of the code, by default what is measured, and the libraries it runs on."""
    content = [*map(version, ("lede", "torch", "transformers")), str(torch.version.cuda)]
    for part in parts:
        path = ROOT / part
        for file in sorted(f for f in path.rglob("*") if f.suffix in (".py", ".c")) if path.is_dir() else [path]:
            content += [file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")]
    return fingerprint("\0".join(content))
