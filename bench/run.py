"""`lede bench`: one table. Methods, their parameters set on training prompts, measured on held-out ones, resumable."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from lede.bench.check import CALIBRATIONS, Check, calibrate, calibrations, check, combined
from lede.bench.differences import Difference, differences
from lede.bench.job import Job, question, sampling, spoken, tokenised
from lede.bench.measure import Method, Sample, measure
from lede.bench.methods import Progress, prepare
from lede.bench.names import FOREIGN, TUNED
from lede.bench.paper import PaperRow, paper_row
from lede.bench.rouge import rouge_l
from lede.bench.store import Store
from lede.bench.summary import Row, by_name, paired, summarise
from lede.collect.prompts import Prompt
from lede.decode.model import Model
from lede.simulate.costs import Costs

EXACT = (torch.float32, torch.float64)
TUNING_SHARE, CHECK_SHARE = 0.3, 0.15  # of the progress bar


@dataclass(frozen=True)
class Report:
    """The result of a bench: one table. `groups`: prompt id → what it shares with others, for intervals."""

    rows: list[Row]
    samples: list[Sample]
    groups: Mapping[str, str]
    differences: list[Difference]
    tuned: dict[str, Any]
    costs: Costs
    facts: dict[str, Any]
    check: Check | None = None
    categories: Mapping[str, list[Row]] = field(default_factory=dict)  # where there are several: the rows of each

    def to_json(self) -> dict[str, Any]:
        """The object that `lede bench --json` prints for one model and task."""
        paper = {row.method: self.paper(row.method) for row in self.rows}
        return {
            **self.facts,
            "costs": self.costs.to_json(),
            "check": None if self.check is None else asdict(self.check),
            "tuning": {row.method: self.tuned[row.method] for row in self.rows if row.method in TUNED},
            "rows": [asdict(row) for row in self.rows],
            "categories": {name: [asdict(row) for row in rows] for name, rows in self.categories.items()},
            "paper": {method: asdict(row) for method, row in paper.items() if row is not None},
            "differences": [asdict(difference) for difference in self.differences],
        }

    @property
    def chosen(self) -> str:
        """How the texts' tokens were chosen, in a few words."""
        temperature, top_k, top_p, seed = (self.facts[name] for name in ("temperature", "top_k", "top_p", "seed"))
        if not temperature:
            return "greedy"
        cuts = [f"top-k {top_k}"] * bool(top_k) + [f"top-p {top_p:g}"] * (top_p < 1)
        return ", ".join([f"temperature {temperature:g}", *cuts, f"seed {seed}"])

    def paper(self, method: str) -> PaperRow | None:
        """What the paper prints for this model, task and method."""
        return paper_row(self.facts["model"], self.facts["task"], method)

    def lead(self, method: str, other: str) -> tuple[float, float, float] | None:
        """`bench.summary.paired`, or None where one of the two was not run."""
        names = {row.method for row in self.rows}
        return paired(self.samples, method, other, self.groups) if {method, other} <= names else None


def bench(
    model: Model,
    path: str,
    job: Job,
    out: Path,
    fresh: bool = False,
    progress: Progress = lambda share, note: None,
) -> Report:
    """Measure one table, or what is left of it: every sample is on disk below `out` as soon as it is taken.

    `path` is where `transformers` finds the same checkpoint. Methods are tuned on `job.training`, never on
    `job.prompts`. Prompts that leave no room in the model's context are left out. Raises BenchError for files in `out`
    that are not a bench's, PolicyError for a policy of another model.
    """
    greedy, settings = job.greedy, job.settings
    job = replace(job, prompts=spoken(model, job.prompts, settings), training=spoken(model, job.training, settings))
    chosen = tokenised(model, job.prompts)
    tokens = {prompt_id: ids for prompt_id, _, ids in chosen}
    asked = question(model, job)
    store = Store(out, asked, fresh)
    samples = [s for s in store.samples(job.rows) if s.prompt_id in tokens]
    resumed, end = len(samples), 1 - CHECK_SHARE if job.check else 1.0
    if resumed < len(job.rows) * len(chosen):
        if threads := store.tuned().get("threads"):
            model.use_threads(threads)  # what was fastest may be another number today: one run keeps to one
        store.remember("threads", torch.get_num_threads())
        prepared = prepare(model, path, job, store, part(progress, 0, TUNING_SHARE))
        samples += measured(model, prepared, chosen, samples, store, job, part(progress, TUNING_SHARE, end))
    checked = check(model, job, store, samples, part(progress, end, 1)) if job.check else None
    progress(1.0, "")
    samples.sort(key=lambda s: job.rows.index(s.method))
    tuned = store.tuned()
    costs = combined(calibrations(tuned))
    groups = {prompt.id: prompt.group for prompt in job.prompts}
    parameters = {name: store.parameters(name) for name in job.rows if name in TUNED}
    rouge = rouge_of(samples, job.prompts)
    exact = model.dtype in EXACT
    rows = summarise(samples, exact, groups, rouge, parameters, greedy)
    parts: dict[str, list[Sample]] = {}
    for sample in samples:
        parts.setdefault(category(sample.task), []).append(sample)
    several = parts.items() if len(parts) > 1 else ()
    by_category = {name: summarise(mine, exact, groups, greedy=greedy) for name, mine in several}
    facts = {
        "model": model.name,
        **{name: asked[name] for name in ("task", "device", "dtype", "max_new_tokens")},
        **sampling(settings),
        "threads": tuned["threads"],
        "prompts": len(chosen),
        "groups": len({groups[prompt_id] for prompt_id in tokens}),
        "left_out": len(job.prompts) - len(chosen),
        "training_prompts": len(job.training),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("lede", "torch", "transformers")},
        "run": str(store.folder),
        "samples": len(samples),
        "resumed": resumed,
    }
    ours = [s for s in samples if greedy or s.method not in FOREIGN]
    parted = differences(model, ours, tokens, settings)
    return Report(rows, samples, groups, parted, tuned, costs, facts, checked, by_category)


def category(task: str) -> str:
    """What a bench's second table groups prompts by: of mt_bench/writing, mt_bench."""
    return task.partition("/")[0]


def part(progress: Progress, start: float, end: float) -> Progress:
    """The stretch of a progress bar from `start` to `end`, as a bar of its own."""
    return lambda share, note: progress(start + (end - start) * share, note)


def measured(
    model: Model,
    methods: Sequence[Method],
    chosen: Sequence[tuple[str, str, list[int]]],
    before: Sequence[Sample],
    store: Store,
    job: Job,
    progress: Progress,
) -> list[Sample]:
    """Take the samples that are not there yet, each written down at once; perhaps costs between some prompts."""
    new: list[Sample] = []
    total = len(methods) * len(chosen)
    due = {(total - len(before)) * (number + 1) // CALIBRATIONS for number in range(CALIBRATIONS)}

    def report(note: str) -> None:
        progress((len(before) + len(new)) / total, note)

    def starting(name: str, number: int) -> None:
        report(f"prompt {number + 1} of {len(chosen)}: {name}" if number >= 0 else f"warming up: {name}")

    done = {(s.method, s.prompt_id) for s in before}
    for sample in measure(model, methods, chosen, job.settings.seed, done, starting):
        store.append(sample)
        new.append(sample)
        if job.check and len(new) in due:
            report("measuring costs again")
            calibrate(model, job, store)
    return new


def rouge_of(samples: Sequence[Sample], prompts: Sequence[Prompt]) -> dict[str, float | None]:
    """{method: mean ROUGE-L over the prompts with a reference}."""
    references = {prompt.id: prompt.reference for prompt in prompts if prompt.reference is not None}
    return {
        method: mean(scores)
        if (scores := [rouge_l(runs[p].text, references[p]) for p in runs if p in references])
        else None
        for method, runs in by_name(samples).items()
    }
