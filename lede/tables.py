"""The tables that the commands print for people; those of `lede bench` are in `lede.bench_tables`."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from lede.learn.train import LearnResult
    from lede.simulate.calibration import Calibration
    from lede.simulate.evaluate import Evaluated, Evaluation

EXITS = 3  # exit layers told apart in a row of an evaluation, the most frequent ones
CALIBRATED_ROWS = (2, 5, 9, 13, 20, 32)  # of the costs by rows
LAYER = (
    *("layer", "visits", "agreement", "exits", "exit_share", "drafted", "acceptance"),
    *("drafts_per_round", "tokens_per_round"),
)
TEXTS = ("distribution", "exits, %", "what", "message")  # columns that are no numbers, beside the first


def grid(title: str | None, *headings: str) -> Table:
    """An empty table without lines; its first column holds names."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for place, heading in enumerate(headings):
        left = place == 0 or heading in TEXTS
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    return table


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where nothing is known."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def numbers(*values: float | None) -> list[str]:
    """Each with two digits."""
    return [number(value) for value in values]


def interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """A number and its interval."""
    return f"{number(value, digits)} ({number(low, digits)}–{number(high, digits)})" if math.isfinite(value) else "–"


# --- lede inspect ----------------------------------------------------------------------------------------------------


def dataset_tables(facts: dict[str, Any]) -> Iterator[Table]:
    """What `replay.inspect_dataset` says: counts, layers, drafts, features, and whether the files are whole."""
    sampled = facts["sampled"]
    yield grid("integrity", "not verified (lede verify)") if sampled else integrity_table(facts["integrity"])
    if "unreadable" in facts:
        return
    model, counts = facts["header"]["model"], facts["counts"]
    summary = grid(f"{facts['path']} · {model['name']}, {model['layers']} layers", "", "what")
    summary.show_header = False
    for name in ("episodes", "tokens", "rounds", "decisions", "drafted", "accepted", "files"):
        summary.add_row(name, f"{counts[name]:,}")
    each = counts["bytes"] / max(counts["decisions"], 1)
    summary.add_row("size", f"{counts['bytes'] / 1e6:.1f} MB, {each:.0f} bytes per decision")
    summary.add_row("decoding", f"{counts['seconds']:.1f} s")
    summary.add_row("tasks", ", ".join(f"{task} {n}" for task, n in facts["tasks"].items()))
    for split, side in facts["splits"].items():
        summary.add_row(split, f"{side['episodes']} episodes of {side['groups']} groups, {side['swept']} with sweeps")
    for run in facts["runs"]:
        how = run.get("behaviour", {}).get("explore", "?")
        summary.add_row(f"run {run['id']}", f"{how}, started {run.get('started', '?')}")
    yield summary
    headings = ("layer", "visits", "agree", "exits", "share", "drafted", "accept", "d", "tokens\n/round")
    told = f", of {sampled:,} decisions (--full reads all)" if sampled else ""
    layers = grid(f"by layer (0 is prompt lookup){told}", *headings)
    for row in facts["layers"]:
        layers.add_row(*(f"{row[name]:,}" if isinstance(row[name], int) else number(row[name]) for name in LAYER))
    yield layers
    values = grid("rewards and features", "column", "mean", "std", "from", "distribution", "to")
    for name, column in {"reward (the paper's)": facts["rewards"], **facts["features"]}.items():
        mean, std, low, high = numbers(column["mean"], column["std"], column["edges"][0], column["edges"][-1])
        values.add_row(name, mean, std, low, sparkline(column["counts"]), high)
    yield values


def integrity_table(findings: list[dict[str, Any]]) -> Table:
    """What `replay.verify` found, each as {path, kind, message, harmless}."""
    if not findings:
        return grid("integrity", "every file is whole, in order, and of this format")
    table = grid("integrity", "file", "what", "message")
    for f in findings:
        table.add_row(f["path"], f["kind"], f["message"], style="dim" if f["harmless"] else "red")
    return table


def sparkline(counts: list[int]) -> str:
    """A histogram in one line of text, two bins a character."""
    counts = [sum(counts[i : i + 2]) for i in range(0, len(counts), 2)]
    most = max(counts, default=0) or 1
    return "".join(" ▁▂▃▄▅▆▇█"[-(-count * 8 // most)] for count in counts)


# --- lede learn ------------------------------------------------------------------------------------------------------


def learning_table(result: "LearnResult") -> Table:
    """What was learned, beside the best static rule of the training texts: where it was chosen, and on test texts."""
    static, training = result.data.static, result.policy.info["training"]
    how = "replayed exactly" if result.data.exact("validation") else "estimated from the log"
    kept = f"{training['kept']:,} of {training['updates']:,} updates"
    title = f"{kept}, chosen on validation texts, {how}; ± standard errors"
    table = grid(title, "", "E", "d", "acceptance", "tokens/ms", "reward")
    for side, score in {"validation": result.score, "test": result.test}.items():
        if score is not None:
            shape = numbers(score.exit_layer, score.drafts, score.acceptance)
            rate = f"{number(score.rate, 3)} ± {number(score.rate_error, 3)}"
            table.add_row(f"policy, {side}", *shape, rate, number(score.reward, 3), style="bold")
    for side in ("validation", "test"):
        if static is not None and training[f"static_{side}"] is not None:
            rate, error = training[f"static_{side}"]
            shown = f"{number(rate, 3)} ± {number(error, 3)}"
            table.add_row(f"best static, {side}", str(static.layer), str(static.drafts), "–", shown, "–")
    return table


# --- lede evaluate ---------------------------------------------------------------------------------------------------


SCORES = ("E", "d", "accept", "tok/\nround", "speedup (95 %)", "of\nbest")


def evaluation_table(evaluation: "Evaluation", dataset: str) -> Table:
    """One row per rule."""
    from lede.simulate.baselines import BASELINES

    texts = f"{evaluation.texts} test texts of {evaluation.groups} groups"
    title = f"{dataset}: replayed exactly on {texts}, reading the prompts included"
    table = grid(title, "rule", *SCORES, "tok\n/s", "bounds", "exits, %")
    for row in evaluation.rows:
        bounds = f"{row.bound_low:.2f}–{row.bound_high:.2f}"
        own = number(row.tokens_per_s, 0), bounds, _exits(row)
        style = "" if row.method in ("autoregressive", *BASELINES) else "bold"
        table.add_row(row.method, *_scores(row, evaluation), *own, style=style)
    return table


def ceiling_table(evaluation: "Evaluation") -> Table:
    """What no rule can pass: with a free choice of everything, and with parts of the choice taken away."""
    table = grid("what no rule can pass: each choice made as if the text were known", "may choose", *SCORES)
    for row in evaluation.ceilings:
        table.add_row(row.method, *_scores(row, evaluation))
    return table


EVALUATION_WORDS = (
    "bounds: behind a real layer's first wrong draft the rule's states are not in the dataset; its speedup if it then "
    "did the worst and the best it could. exits: the rounds that draft, by layer. best: the oracle, which chooses "
    "everything freely, decisions free. intervals: bootstrap over groups of texts (a module, an article, a "
    "conversation), paired"
)


def _scores(row: "Evaluated", evaluation: "Evaluation") -> list[str]:
    """The cells under `SCORES`."""
    exits = number(row.exit_layer, 1), number(row.draft_length, 1)
    speedup = interval(row.predicted_speedup, row.predicted_low, row.predicted_high)
    share = f"{row.predicted_speedup / evaluation.oracle_speedup:.0%}"
    return [*exits, *numbers(row.acceptance, row.tokens_per_round), speedup, share]


def _exits(row: "Evaluated") -> str:
    """The layers that most rounds draft from; a rule that always drafts from one needs no telling."""
    exits = row.exits or {}
    if len(exits) < 2:
        return ""
    often = sorted(sorted(exits, key=exits.__getitem__, reverse=True)[:EXITS])
    return " ".join(f"{layer}:{100 * exits[layer] / sum(exits.values()):.0f}" for layer in often)


# --- lede calibrate --------------------------------------------------------------------------------------------------


def calibration_table(calibration: "Calibration") -> Table:
    """Milliseconds of each operation, and how many layers of plain decoding they are."""
    costs, table = calibration.costs, grid(None, "operation", "ms", "layers")
    unit = costs.first()
    for name, value in {
        "a token of plain decoding": costs.plain(),
        "layer, 1 row, after all others": costs.first(),
        "layer, 1 row, right after itself": costs.again(),
        **{f"layer, {rows} rows": costs.layer[rows - 1] for rows in CALIBRATED_ROWS},
        "head of a draft": costs.speak,
        "head of plain decoding": costs.head[0],
        **{f"head of a verification, {rows} rows": costs.head[rows - 1] for rows in CALIBRATED_ROWS},
        "features of a state": costs.features,
        "decision": costs.decision,
        "lookup": costs.lookup,
        "round, whatever it does": costs.round,
        "round, for its lookup index": costs.index,
        "round, for its traces": costs.trace,
        "layer, for 100 more positions, 1 row": costs.further(1, costs.context + 100),
        "a token of a prompt": costs.prefill,
    }.items():
        table.add_row(name, f"{value:.4f}", f"{value / unit:.2f}" if unit else "–")
    return table
