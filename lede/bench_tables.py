"""What `lede bench` prints for people: the paper's measures, where the time goes, and the point in words."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from lede.tables import number

if TYPE_CHECKING:
    from lede.bench.run import Report

NEAR_TIE = 0.05  # logits: below it a difference is what rounding explains
NEAR = 0.05  # share by which a prediction may be off, and calibrations apart, without a word
SHOWN = 3  # differences told one by one


def bench_title(report: "Report") -> str:
    """Whose numbers these are."""
    facts = report.facts
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != 1 else ''}"
    return (
        f"[bold]{facts['model']} · {facts['task']}[/] · {facts['dtype']} · {facts['device']}, {threads} · "
        f"{facts['prompts']} held-out prompts, {facts['max_new_tokens']} tokens"
        + (f", temperature {facts['temperature']:g}" if facts["temperature"] else "")
    )


def bench_table(report: "Report") -> Table:
    """The paper's measures, one row a method; the paper's own numbers under it where it has some."""
    rouge = any(row.rouge_l is not None for row in report.rows)
    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = ["method", "E", "d", "accept", "tokens\n/round", "tokens\n/s", "speedup (95 %)", "over\nlibrary"]
    for heading in [*headings, *(["ROUGE-L"] if rouge else []), "same"]:
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in report.rows:
        over = row.speedup_over_transformers
        table.add_row(
            row.method, number(row.exit_layer), number(row.draft_length), number(row.acceptance),
            number(row.tokens_per_round), number(row.tokens_per_s, 0),
            f"{row.speedup:.2f}× ({row.speedup_low:.2f}–{row.speedup_high:.2f})",
            "–" if over is None else f"{over:.1f}×",
            *([number(row.rouge_l, 3)] if rouge else []),
            {True: "yes", False: "[red]no[/]", None: "–"}[row.identical],
            style="bold" if row.method == "lede" else "",
        )  # fmt: skip
        if (theirs := report.paper(row.method)) is not None:
            table.add_row(
                f"  paper, Table {theirs.table}", number(theirs.exit_layer), number(theirs.draft_length),
                number(theirs.acceptance), "", "", f"{theirs.speedup:.2f}×            ", "",
                *([number(theirs.rouge_l, 3)] if rouge else []), "", style="dim",
            )  # fmt: skip
    return table


def time_table(report: "Report") -> Table:
    """Where each method's time goes, and how near it comes to what its own drafts would allow."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    headings = ["method", "prompt", "draft", "decide", "verify", "host", "decoding", "limit", "reached"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in report.rows:
        if row.verify_share is None:
            continue
        table.add_row(
            row.method, percent(row.prompt_share), percent(row.draft_share), percent(row.decision_share, 1),
            percent(row.verify_share), percent(row.host_share),
            "–" if row.decoding_speedup is None else f"{row.decoding_speedup:.2f}×",
            "–" if row.limit is None else f"{row.limit:.2f}×", percent(row.share_of_limit),
            style="bold" if row.method == "lede" else "",
        )  # fmt: skip
    return table


def check_table(report: "Report") -> Table:
    """What replay says of each rule, beside what was measured, and how much of the best possible that is."""
    assert report.check is not None
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("method", "predicted", "bounds", "measured (95 %)", "measured/\npredicted", "of the\noracle"):
        table.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in report.rows:
        if row.predicted_speedup is None or row.regret is None:
            continue
        ratio = row.speedup / row.predicted_speedup
        table.add_row(
            row.method, f"{row.predicted_speedup:.2f}×", f"{row.predicted_low:.2f}–{row.predicted_high:.2f}",
            f"{row.speedup:.2f}× ({row.speedup_low:.2f}–{row.speedup_high:.2f})", f"{ratio:.3f}",
            percent(1 - row.regret), style="bold" if row.method == "lede" else "",
        )  # fmt: skip
    return table


def _check_words(report: "Report") -> Iterator[str]:
    """How good the predictions are, and how far to trust them."""
    found = report.check
    if found is None:
        return
    off = [
        f"{row.method} ({row.speedup / row.predicted_speedup - 1:+.0%})" for row in report.rows
        if row.predicted_speedup is not None and abs(row.speedup / row.predicted_speedup - 1) > NEAR
    ]  # fmt: skip
    yield (
        f"measured more than {NEAR:.0%} off what was predicted: {', '.join(off)}" if off
        else f"every measured speedup is within {NEAR:.0%} of the predicted one"
    )  # fmt: skip
    layers = ", ".join(map(str, found.oracle_layers))
    yield (
        "[dim]predicted: replay of the same texts with costs measured here; bounds: if it did the worst and the best "
        f"it could behind real layers' wrong drafts. oracle: {found.oracle_speedup:.2f}×, the best choice of layer "
        f"(among {layers}) and length in every round, decisions free[/]"
    )
    took = sum(s.seconds for s in report.samples if s.method == "autoregressive") / found.plain_seconds
    if abs(took - 1) > NEAR:
        yield (
            f"[yellow]plain decoding took {took:.2f}× what it takes by these costs: the machine was not the same while "
            "measuring and while calibrating[/]"
        )
    if found.drift > NEAR:
        yield (
            f"[yellow]the machine was not steady: half of the {found.calibrations} calibrations in this run differ by "
            f"{found.drift:.0%} or more in what a round costs over a plain token[/]"
        )


def bench_words(report: "Report") -> Iterator[str]:
    """The tables' point in a few sentences, what a reader must know of `same`, and where the run is."""
    facts = report.facts
    rivals = [row for row in report.rows if not row.method.startswith(("lede", "transformers", "autoregressive"))]
    best = max(rivals, key=lambda row: row.speedup, default=None)
    others = [("lede-paper", "the paper's own recipe")]
    if best is not None:
        others.insert(
            0,
            (
                best.method,
                f"the best of the rivals, {best.method}" + (f" ({said(best.parameters)})" if best.parameters else ""),
            ),
        )
    for other, what in others:
        if (lead := report.lead("lede", other)) is not None:
            ratio, low, high = lead
            yield f"lede is {ratio:.2f}× as fast as {what}: 95 % interval {low:.2f}–{high:.2f}"
    if any(row.limit is not None for row in report.rows):
        yield (
            "[dim]prompt: its share of all time; draft, decide, verify, host: theirs of decoding. decoding: the "
            "speedup without prompts; limit: the one that a method's own E, d and acceptance imply, were deciding and "
            "the host's work free; reached: what it has of that[/]"
        )
    yield from _check_words(report)
    tuned = [f"{row.method} ({said(row.parameters)})" for row in report.rows if row.parameters]
    if tuned:
        yield f"[dim]tuned on {facts['training_prompts']} training prompts: {'; '.join(tuned)}[/]"
    yield from _differences(report)
    if facts["temperature"]:
        yield "[dim]sampled, with a seed for each prompt: methods write other texts, of the same distribution[/]"
    if facts["left_out"]:
        yield f"[yellow]left out, longer than the model's context: {facts['left_out']} of the prompts[/]"
    if facts["resumed"] == facts["samples"]:
        yield f"nothing left to measure, this is what {facts['run']} holds; --fresh measures again"
    elif facts["resumed"]:
        yield f"went on from {facts['resumed']} of {facts['samples']} measurements; every prompt is in {facts['run']}"
    else:
        yield f"[dim]every prompt is in {facts['run']}[/]"


def _differences(report: "Report") -> Iterator[str]:
    """Which methods do not write plain decoding's text, and whether rounding explains it."""
    by_method: dict[str, list[Any]] = {}
    for difference in report.differences:
        by_method.setdefault(difference.method, []).append(difference)
    for method, found in by_method.items():
        margins = [d.margin for d in found if d.margin is not None]
        worst = max((abs(m) for m in margins), default=None)
        tie = worst is not None and worst <= NEAR_TIE and len(margins) == len(found)
        ours = not method.startswith("transformers")
        where = "; ".join(
            f"{d.prompt} from token {d.position + 1}"
            + (f", margin {d.margin:.3g}" if d.margin is not None else ", one text ended")
            for d in found[:SHOWN]
        )
        more = f"; {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        why = "near ties, which rounding decides" if tie else "more than rounding of a near tie explains"
        if not ours and report.facts["dtype"] not in ("float32", "float64"):
            why += f"; transformers rounds differently in {report.facts['dtype']}, in float32 both are the same"
        colour = "red" if ours else "dim"
        yield (
            f"[{colour}]{method} differs from plain decoding on {len(found)} of {report.facts['prompts']} prompts "
            f"({where}{more}): {why}[/]"
        )


def said(parameters: dict[str, Any] | None) -> str:
    """Tuned parameters in a few words."""
    return ", ".join(f"{name} {_value(value)}" for name, value in (parameters or {}).items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def percent(share: float | None, digits: int = 0) -> str:
    """A share, or a dash."""
    return "–" if share is None else f"{share:.{digits}%}"
