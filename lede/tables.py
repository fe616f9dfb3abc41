"""What the commands print for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from bench.run import Report


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
    )
    headings = ("method", "E", "d", "acceptance", "tokens/round", "tokens/s", "speedup", "95 % interval", "over transformers", "identical")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for row in report.rows:
        table.add_row(
            row.method, number(row.exit_layer), number(row.draft_length), number(row.acceptance), number(row.tokens_per_round),
            number(row.tokens_per_s, 0), f"{row.speedup:.2f}×", f"{row.speedup_low:.2f}–{row.speedup_high:.2f}",
            "–" if row.speedup_over_transformers is None else f"{row.speedup_over_transformers:.2f}×",
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
            f"[dim]transformers rounds differently in {report.facts['dtype']}, so its text may part from ours at a near tie; "
            "in float32 both are the same.[/]"
        )


def dataset_tables(facts: dict[str, Any]) -> Iterator[Table]:
    """What `replay.inspect_dataset` found."""
    yield Table(title=str(facts["path"]))
