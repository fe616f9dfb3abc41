"""A bench on disk: what was asked, what tuning chose, and a line for every prompt and method once it is measured.

    <folder>/<id>/run.json         what decides the numbers; the id is a short hash of it
                  tuning.json      measured costs and each method's parameters, as they are found
                  <method>.jsonl   a line a prompt, in Spec-Bench's layout, with our measures beside

The same question finds its folder again and goes on from what is there; another question has another folder, so nothing
is ever mixed or lost.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lede.bench import spec_bench
from lede.bench.errors import BenchError
from lede.bench.measure import Sample
from lede.collect.prompts import Prompt

MEASURES = tuple(
    field.name for field in fields(Sample) if field.name not in ("method", "prompt_id", "task", "seconds", "text")
)
ROOT = Path(__file__).resolve().parents[1]
# The code that the numbers are of; tables and pictures may change without a prompt being measured again.
MEASURED_CODE = (
    "decode",
    "serve",
    "bench/measure.py",
    "bench/methods.py",
    "bench/library.py",
    "bench/tune.py",
    "simulate/families.py",
)


class Store:
    """One run's folder."""

    def __init__(self, root: Path, question: Mapping[str, Any], fresh: bool = False):
        """Open the folder of `question` (JSON-ready) under `root`, or make it; `fresh` empties it first."""
        text = json.dumps(question, sort_keys=True)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:8]
        if fresh and self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "run.json"
        if not about.exists():
            replace(about, dict(question))
        self._tuning = self.folder / "tuning.json"

    def samples(self, methods: Iterable[str], model_name: str) -> list[Sample]:
        """What these methods have been measured on. Raises BenchError for a file that is damaged or not ours."""
        found = []
        for method in methods:
            path = self._path(method)
            try:
                rows = spec_bench.read(path)
                found += [_sample(method, row) for row in rows if row["model_id"] == _model_id(model_name, method)]
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise BenchError(f"{path} does not hold a bench's results ({error}): measure with --fresh") from None
        return found

    def append(self, sample: Sample, model_name: str) -> None:
        """Write a sample down: it survives whatever happens to this process."""
        row = spec_bench.line(
            sample.prompt_id, sample.task, _model_id(model_name, sample.method), text=sample.text,
            new_tokens=len(sample.token_ids), seconds=sample.seconds,
            accept_lengths=sample.commits or (1,) * len(sample.token_ids),
            extra={"lede": {name: getattr(sample, name) for name in MEASURES}},
        )  # fmt: skip
        spec_bench.write_line(self._path(sample.method), row)

    def tuned(self) -> dict[str, Any]:
        """What was measured or chosen before, by name."""
        try:
            return dict(json.loads(self._tuning.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise BenchError(f"{self._tuning} is damaged ({error}): measure with --fresh") from None

    def remember(self, name: str, value: Any) -> None:
        """Keep something that was measured or chosen for the next time."""
        replace(self._tuning, self.tuned() | {name: value})

    def _path(self, method: str) -> Path:
        return self.folder / f"{method}.jsonl"


def _model_id(model_name: str, method: str) -> str:
    return f"{model_name} {method}"


def _sample(method: str, row: Mapping[str, Any]) -> Sample:
    choice = row["choices"][0]
    kept: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row["lede"].items()
    }
    return Sample(
        method, row["question_id"], row["category"], seconds=choice["wall_time"][0], text=choice["turns"][0],
        **{name: kept[name] for name in MEASURES},
    )  # fmt: skip


def replace(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON beside the file, then rename over it: a reader sees the old content or the new, never half."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def prompts_hash(prompts: Iterable[Prompt]) -> str:
    """Names a list of prompts."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps(asdict(prompt)).encode())
    return digest.hexdigest()[:16]


def policy_hash(folder: Path) -> str:
    """Names a policy: its description holds the hash of its weights."""
    return hashlib.sha256((folder / "policy.json").read_bytes()).hexdigest()[:16]


@cache
def code_hash(parts: tuple[str, ...] = MEASURED_CODE) -> str:
    """Names files and folders of the code, by default what is measured, and the libraries it runs on."""
    digest = hashlib.sha256(" ".join(version(name) for name in ("lede", "torch", "transformers")).encode())
    digest.update(str(torch.version.cuda).encode())
    for part in parts:
        path = ROOT / part
        for file in sorted(f for f in path.rglob("*") if f.suffix in (".py", ".c")) if path.is_dir() else [path]:
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
