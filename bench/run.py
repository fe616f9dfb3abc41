"""`lede bench`: the methods, their parameters set on training prompts, measured on held-out ones."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.measure import Sample, library_method, measure, rule_method
from bench.static import Static, best_static
from bench.summary import Row, differences, paired, summarise
from collect.prompts import Prompt
from decode.generate import encode
from decode.model import Model
from decode.rules import Autoregressive
from decode.sampling import Settings
from serve.generate import policy_rule

EXACT = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Report:
    """What a bench found."""

    rows: list[Row]
    samples: list[Sample]
    static: Static
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The object that `lede bench --json` prints."""
        return {
            **self.facts,
            "static": {"exit_layer": self.static.exit_layer, "draft_length": self.static.draft_length},
            "rows": [asdict(row) for row in self.rows],
            "differences": differences(self.samples),
        }

    def lead(self, method: str, other: str) -> tuple[float, float, float] | None:
        """`bench.summary.paired`, or None where one of the two was not run."""
        names = {row.method for row in self.rows}
        return paired(self.samples, method, other) if {method, other} <= names else None


def bench(
    model: Model,
    path: str,
    prompts: Sequence[Prompt],
    training: Sequence[Prompt],
    policies: dict[str, Path],
    settings: Settings,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Report:
    """Measure `transformers`, plain decoding, the best static LayerSkip and each policy (name → folder).

    `path` is where `transformers` finds the same checkpoint. Static parameters are tuned on `training`, never on
    `prompts`. Prompts that leave no room in the model's context are left out.
    """
    rules = {name: policy_rule(model, folder, name) for name, folder in policies.items()}
    tuning = [ids for _, _, ids in tokenised(model, training)]
    static = best_static(model, tuning, settings, progress=lambda done, total: progress("tuning", done, total))
    methods = [
        library_method(model, path, settings),
        rule_method(model, Autoregressive(), settings),
        rule_method(model, static.rule, settings),
        *(rule_method(model, rule, settings, name) for name, rule in rules.items()),
    ]
    chosen = tokenised(model, prompts)
    samples: list[Sample] = []
    for sample in measure(model, methods, chosen):
        samples.append(sample)
        progress("measuring", len(samples), len(methods) * len(chosen))
    facts = {
        "model": model.name, "device": device_name(model), "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(), "prompts": len(chosen), "max_new_tokens": settings.max_new_tokens,
        "versions": {name: version(name) for name in ("lede", "torch", "transformers")}
        | {"python": platform.python_version()},
    }  # fmt: skip
    return Report(summarise(samples, model.dtype in EXACT), samples, static, facts)


def tokenised(model: Model, prompts: Sequence[Prompt]) -> list[tuple[str, str, list[int]]]:
    """(id, task, token ids) of the prompts that fit."""
    out = []
    for prompt in prompts:
        ids = list(prompt.tokens) if prompt.tokens is not None else encode(model, prompt.text)
        if len(ids) < model.context - 1:
            out.append((prompt.id, prompt.task, ids))
    return out


def device_name(model: Model) -> str:
    """cpu (what kind) or the GPU's name."""
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        kind = platform.processor() or platform.machine()
    return f"cpu ({kind}, {torch.multiprocessing.cpu_count()} cores)"
