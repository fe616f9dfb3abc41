"""What the commands print for people."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


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
    for split, side in facts["splits"].items():
        summary.add_row(split, f"{side['episodes']} episodes of {side['groups']} groups, {side['swept']} with sweeps")
    for run in facts["runs"]:
        how = run.get("behaviour", {}).get("explore", "?")
        summary.add_row(f"run {run['id']}", f"{how}, started {run.get('started', '?')}")
    yield summary
    layers = Table(title="by layer (0 is prompt lookup)", title_justify="left")
    for heading in ("layer", "visits", "agree", "exits", "share", "drafted", "accept", "d", "tokens\n/round"):
        layers.add_column(heading, justify="right")
    for row in facts["layers"]:
        layers.add_row(
            str(row["layer"]),
            f"{row['visits']:,}",
            number(row["agreement"]),
            f"{row['exits']:,}",
            number(row["exit_share"]),
            f"{row['drafted']:,}",
            number(row["acceptance"]),
            number(row["drafts_per_round"]),
            number(row["tokens_per_round"]),
        )
    yield layers
    values = Table(title="rewards and features", title_justify="left")
    for heading in ("column", "mean", "std", "from", "distribution", "to"):
        values.add_column(heading, justify="left" if heading in ("column", "distribution") else "right")
    for name, histogram in {"reward (the paper's)": facts["rewards"], **facts["features"]}.items():
        edges = histogram["edges"]
        values.add_row(
            name,
            number(histogram["mean"]),
            number(histogram["std"]),
            number(edges[0]),
            sparkline(histogram["counts"]),
            number(edges[-1]),
        )
    yield values


def integrity_table(facts: dict[str, Any]) -> Table:
    """Every finding, or one line that all is well."""
    findings = facts["integrity"]
    table = Table(title="integrity", title_justify="left", show_header=bool(findings))
    if not findings:
        table.add_row("every file is whole, in order, and of this format", style="green")
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
