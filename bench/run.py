"""`lede bench`: one table. Methods, their parameters set on training prompts, measured on held-out ones, resumable."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lede.bench.check import CALIBRATIONS, Check, calibrate, calibrations, check, combined
from lede.bench.differences import Difference, differences, measured
from lede.bench.errors import BenchError
from lede.bench.measure import Method, Sample, measure
from lede.bench.methods import Progress, prepare
from lede.bench.names import BASELINE, METHODS
from lede.bench.paper import PaperRow, paper_row
from lede.bench.rouge import rouge_l
from lede.bench.store import Store, code_hash, policy_hash, prompts_hash
from lede.bench.summary import Row, by_name, paired, summarise
from lede.collect.prompts import Prompt
from lede.decode.device import device_facts
from lede.decode.facts import model_facts
from lede.decode.generate import encode
from lede.decode.model import Model
from lede.decode.sampling import Settings
from lede.simulate.costs import Costs

EXACT = (torch.float32, torch.float64)
TUNING_SHARE, CHECK_SHARE = 0.3, 0.15  # of the progress bar


@dataclass(frozen=True)
class Job:
    """What one table is to show.

    `prompts` are measured on, `training` only tuned on; `policies`: the folders of `lede` and others (POLICY_OF), where
    they are wanted; `threads` as asked for, 0 for what was fastest; `check`: set beside each speedup what replay says.
    """

    task: str
    prompts: Sequence[Prompt]
    training: Sequence[Prompt]
    settings: Settings
    methods: Sequence[str]
    policies: dict[str, Path] = field(default_factory=dict)
    threads: int = 0
    check: bool = False


@dataclass(frozen=True)
class Report:
    """What a bench found: one table."""

    rows: list[Row]
    samples: list[Sample]
    differences: list[Difference]
    tuned: dict[str, Any]
    costs: Costs
    facts: dict[str, Any]
    check: Check | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `lede bench --json` prints for one model and task."""
        paper = {row.method: found for row in self.rows if (found := self.paper(row.method)) is not None}
        return {
            **self.facts,
            "static": self.tuned.get("layerskip", {}).get("parameters"),
            "costs": self.costs.to_json(),
            "check": None if self.check is None else self.check.to_json(),
            "tuning": {name: self.tuned[name] for name in METHODS if name in self.tuned},
            "rows": [asdict(row) for row in self.rows],
            "paper": {method: asdict(row) for method, row in paper.items()},
            "differences": [asdict(difference) for difference in self.differences],
        }

    def paper(self, method: str) -> PaperRow | None:
        """What the paper prints for this model, task and method."""
        return paper_row(self.facts["model"], self.facts["task"], method)

    def lead(self, method: str, other: str) -> tuple[float, float, float] | None:
        """`bench.summary.paired`, or None where one of the two was not run."""
        names = {row.method for row in self.rows}
        return paired(self.samples, method, other) if {method, other} <= names else None


def bench(
    model: Model,
    path: str,
    job: Job,
    out: Path,
    fresh: bool = False,
    progress: Progress = lambda share, note: None,
) -> Report:
    """Measure one table, or what is left of it: every sample is on disk below `out` as soon as it is taken.

    `path` is where `transformers` finds the same checkpoint. Rivals are tuned on `job.training`, never on
    `job.prompts`. Prompts that leave no room in the model's context are left out. Raises BenchError for files in `out`
    that are not a bench's and for a check of sampled texts, PolicyError for a policy of another model.
    """
    if job.check and job.settings.temperature > 0:
        raise BenchError(
            f"--check replays greedy texts, and {job.task} is sampled at temperature {job.settings.temperature:g}: "
            "leave out the one or the other"
        )
    methods = [name for name in METHODS if name in job.methods or name == BASELINE]
    chosen = tokenised(model, job.prompts)
    store = Store(out, question(model, job, methods), fresh)
    wanted = {(method, prompt_id) for method in methods for prompt_id, _, _ in chosen}
    samples = [s for s in store.samples(methods, model.name) if (s.method, s.prompt_id) in wanted]
    resumed = len(samples)
    if resumed < len(wanted):
        if threads := store.tuned().get("threads"):
            model.use_threads(threads)  # what was fastest may be another number today: one run keeps to one
        store.remember("threads", torch.get_num_threads())
        training = [ids for _, _, ids in tokenised(model, job.training)]
        prepared = prepare(
            model, path, methods, training, job.settings, job.policies, store,
            lambda share, note: progress(share * TUNING_SHARE, note),
        )  # fmt: skip
        end = 1 - CHECK_SHARE if job.check else 1.0
        samples += _measured(
            model, prepared, chosen, samples, store, job.check,
            lambda share, note: progress(TUNING_SHARE + (end - TUNING_SHARE) * share, note),
        )  # fmt: skip
    greedy = job.settings.temperature == 0
    tokens = {prompt_id: ids for prompt_id, _, ids in chosen}
    checked = check(
        model, store, methods, job.policies, job.settings, tokens, samples,
        lambda share, note: progress(1 - CHECK_SHARE + CHECK_SHARE * share, note),
    ) if job.check else None  # fmt: skip
    progress(1.0, "")
    tuned = store.tuned()
    costs = combined(calibrations(tuned))
    order = {method: number for number, method in enumerate(methods)}
    samples.sort(key=lambda s: order[s.method])
    facts = {
        "model": model.name, "task": job.task, "device": device_facts(model)["name"],
        "dtype": str(model.dtype).removeprefix("torch."), "threads": tuned["threads"], "prompts": len(chosen),
        "left_out": len(job.prompts) - len(chosen), "training_prompts": len(job.training),
        "max_new_tokens": job.settings.max_new_tokens, "temperature": job.settings.temperature,
        "versions": {name: version(name) for name in ("lede", "torch", "transformers")}
        | {"python": platform.python_version()},
        "run": str(store.folder), "samples": len(samples), "resumed": resumed,
    }  # fmt: skip
    rows = summarise(
        samples, model.dtype in EXACT, costs, rouge_of(samples, job.prompts),
        {name: tuned[name]["parameters"] for name in methods if name in tuned}, greedy,
    )  # fmt: skip
    found = measured(model, differences(samples), samples, tokens) if greedy else []
    return Report(checked.rows(rows) if checked else rows, samples, found, tuned, costs, facts, checked)


def _measured(
    model: Model, methods: Sequence[Method], chosen: Sequence[tuple[str, str, list[int]]], before: Sequence[Sample],
    store: Store, calibrating: bool, progress: Progress,
) -> list[Sample]:  # fmt: skip
    """Take the samples that are not there yet, each written down at once; perhaps costs between some prompts."""
    done = {(s.method, s.prompt_id) for s in before}
    total = len(methods) * len(chosen)
    left = total - len(before)
    due = {left * (number + 1) // CALIBRATIONS for number in range(CALIBRATIONS)}
    new: list[Sample] = []
    for sample in measure(
        model, methods, chosen, done,
        lambda name, number: progress(
            (len(before) + len(new)) / total,
            f"prompt {number + 1} of {len(chosen)}: {name}" if number >= 0 else f"warming up: {name}",
        ),
    ):  # fmt: skip
        store.append(sample, model.name)
        new.append(sample)
        if calibrating and len(new) in due:
            progress((len(before) + len(new)) / total, "measuring costs again")
            calibrate(model, store)
    return new


def question(model: Model, job: Job, methods: Sequence[str]) -> dict[str, Any]:
    """Everything that decides the numbers: two runs with the same may be put together, no others."""
    settings = job.settings
    policies = {name: policy_hash(folder) for name, folder in job.policies.items()}
    return {
        "model": model_facts(model), "task": job.task, "methods": list(methods), "policies": policies,
        "prompts": prompts_hash(job.prompts), "training": prompts_hash(job.training),
        "max_new_tokens": settings.max_new_tokens, "temperature": settings.temperature, "top_k": settings.top_k,
        "top_p": settings.top_p, "device": device_facts(model)["name"], "dtype": str(model.dtype),
        "native": model.native, "threads": job.threads, "code": code_hash(),
    }  # fmt: skip


def rouge_of(samples: Sequence[Sample], prompts: Sequence[Prompt]) -> dict[str, float | None]:
    """{method: mean ROUGE-L over the prompts with a reference}."""
    references = {prompt.id: prompt.reference for prompt in prompts}
    return {
        method: rouge_l([s.text for s in runs.values()], [references[p] for p in runs])
        for method, runs in by_name(samples).items()
    }


def tokenised(model: Model, prompts: Sequence[Prompt]) -> list[tuple[str, str, list[int]]]:
    """(id, task, token ids) of the prompts that fit."""
    out = []
    for prompt in prompts:
        ids = list(prompt.tokens) if prompt.tokens is not None else encode(model, prompt.text)
        if len(ids) < model.context - 1:
            out.append((prompt.id, prompt.task, ids))
    return out
