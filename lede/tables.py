"""What the commands print for people."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from bench.run import Report
    from learn.train import LearnResult


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def bench_table(report: "Report") -> Table:
    """One row a method."""
    facts = report.facts
    table = Table(
        title=f"{facts['model']} · {facts['dtype']} · {facts['device']}, {facts['threads']} threads · "
        f"{facts['prompts']} held-out prompts",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    headings = ["method", "E", "d", "accept", "tokens\n/round", "tokens\n/s", "speedup (95 %)", "over\nlibrary", "same"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in report.rows:
        over = row.speedup_over_transformers
        speedup = f"{row.speedup:.2f}× ({row.speedup_low:.2f}–{row.speedup_high:.2f})"
        table.add_row(
            row.method, number(row.exit_layer), number(row.draft_length), number(row.acceptance),
            number(row.tokens_per_round), number(row.tokens_per_s, 0),
            speedup, "–" if over is None else f"{over:.1f}×",
            "yes" if row.identical else "[red]no[/]",
            style="bold" if row.method == "lede" else "",
        )  # fmt: skip
    return table


def bench_words(report: "Report") -> Iterator[str]:
    """The table's point in a sentence or two, and what a reader must know of `identical`."""
    static = report.static
    for method, other, what in (
        ("lede", "layerskip", f"the best static LayerSkip (E={static.exit_layer}, d={static.draft_length})"),
        ("lede", "lede-paper", "the paper's own recipe"),
    ):
        if (lead := report.lead(method, other)) is not None:
            ratio, low, high = lead
            yield f"lede is {ratio:.2f}× as fast as {what} (95 % interval {low:.2f}–{high:.2f})"
    different = [d for d in report.to_json()["differences"] if d["method"] != "transformers"]
    if different:
        yield f"[red]{len(different)} outputs differ from plain decoding: see --json[/]"
    if any(row.method == "transformers" and not row.identical for row in report.rows):
        yield (
            f"[dim]transformers rounds differently in {report.facts['dtype']}, so its text may part from ours at a "
            "near tie; in float32 both are the same.[/]"
        )


def dataset_tables(facts: dict[str, Any]) -> Iterator[Table]:
    """What `replay.inspect_dataset` found: counts, layers, drafts, features, and whether the files are whole."""
    model = facts["header"]["model"]
    yield integrity_table(facts)
    if "unreadable" in facts:
        return
    counts = facts["counts"]
    summary = Table(
        title=f"{facts['path']} · {model['name']}, {model['layers']} layers", title_justify="left", show_header=False
    )
    for name in ("episodes", "tokens", "rounds", "decisions", "drafted", "accepted", "files"):
        summary.add_row(name, f"{counts[name]:,}")
    summary.add_row(
        "size", f"{counts['bytes'] / 1e6:.1f} MB, {counts['bytes'] / max(counts['decisions'], 1):.0f} bytes a decision"
    )
    summary.add_row("decoding", f"{counts['seconds']:.1f} s")
    summary.add_row("tasks", ", ".join(f"{task} {n}" for task, n in facts["tasks"].items()))
    for run in facts["runs"]:
        how = run.get("behaviour", {}).get("explore", "?")
        summary.add_row(f"run {run['id']}", f"{how}, started {run.get('started', '?')}")
    yield summary
    layers = Table(title="by layer (0 is prompt lookup)", title_justify="left")
    for heading in ("layer", "visits", "agree", "exits", "share", "drafted", "accept", "d", "tokens\n/round"):
        layers.add_column(heading, justify="right")
    for row in facts["layers"]:
        layers.add_row(
            str(row["layer"]), f"{row['visits']:,}", number(row["agreement"]), f"{row['exits']:,}",
            number(row["exit_share"]), f"{row['drafted']:,}", number(row["acceptance"]),
            number(row["drafts_per_round"]), number(row["tokens_per_round"]),
        )  # fmt: skip
    yield layers
    values = Table(title="rewards and features", title_justify="left")
    for heading in ("column", "mean", "std", "from", "distribution", "to"):
        values.add_column(heading, justify="left" if heading in ("column", "distribution") else "right")
    for name, histogram in {"reward (the paper's)": facts["rewards"], **facts["features"]}.items():
        edges = histogram["edges"]
        values.add_row(
            name, number(histogram["mean"]), number(histogram["std"]), number(edges[0]), sparkline(histogram["counts"]),
            number(edges[-1]),
        )  # fmt: skip
    yield values


def integrity_table(facts: dict[str, Any]) -> Table:
    """Every finding, or one line that all is well."""
    findings = facts["integrity"]
    table = Table(title="integrity", title_justify="left", show_header=bool(findings))
    if not findings:
        table.add_row("[green]every file is whole, in order, and of this format[/]")
        return table
    for heading in ("file", "what", "message"):
        table.add_column(heading)
    for finding in findings:
        table.add_row(
            finding["path"], finding["kind"], finding["message"], style="dim" if finding["harmless"] else "red"
        )
    return table


def sparkline(counts: list[int]) -> str:
    """A histogram in one line of text, two bins a character."""
    counts = [sum(counts[i : i + 2]) for i in range(0, len(counts), 2)]
    most = max(counts, default=0) or 1
    return "".join(" ▁▂▃▄▅▆▇█"[-(-count * 8 // most)] for count in counts)


def learning_table(result: "LearnResult") -> Table:
    """What was learned, beside the best static rule of the same files."""
    score, static = result.score, result.static
    table = Table(
        title="on validation episodes, " + ("replayed exactly" if result.exact else "estimated from the log"),
        title_justify="left",
    )
    for heading in ("", "E", "d", "acceptance", "tokens/ms", "reward"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row(
        f"policy, kept at update {result.update:,} of {result.updates:,}", known(score.exit_layer), known(score.drafts),
        known(score.acceptance), f"{known(score.rate, 3)} ± {known(score.rate_error, 3)}", known(score.reward, 3),
        style="bold",
    )  # fmt: skip
    if static is not None:
        table.add_row("best static rule", str(static.layer), str(static.drafts), "–", known(static.rate, 3), "–")
    return table


def known(value: float, digits: int = 2) -> str:
    """A number, or a dash where the log could not tell."""
    return number(value if math.isfinite(value) else None, digits)
