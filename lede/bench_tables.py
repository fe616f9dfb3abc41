"""What `lede bench` prints for people: the paper's measures, where the time goes, and the point in words."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from lede.tables import grid, number, numbers

if TYPE_CHECKING:
    from lede.bench.differences import Difference
    from lede.bench.run import Report

NEAR_TIE = 0.05  # logits: below it a difference is what rounding explains
NEAR = 0.05  # share by which a prediction may be off, and calibrations apart, without a word
SHOWN = 3  # differences told one by one


def bench_title(report: "Report") -> Text:
    """Whose numbers these are."""
    facts = report.facts
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != 1 else ''}"
    rest = (
        f" · {facts['dtype']} · {facts['device']}, {threads} · {facts['prompts']} held-out prompts, "
        f"{facts['max_new_tokens']} tokens"
        + (f", temperature {facts['temperature']:g}" if facts["temperature"] else "")
    )
    return Text.assemble((f"{facts['model']} · {facts['task']}", "bold"), rest)


def bench_table(report: "Report") -> Table:
    """The paper's measures, one row per method; the paper's own numbers under it where it has some."""
    rouge = any(row.rouge_l is not None for row in report.rows)
    same = {True: "yes", False: "no", None: "–"}
    table = grid(None, "method", "E", "d", "accept", "tokens\n/round", "tokens\n/s", "speedup (95 %)", "over\nlibrary")
    for heading in [*(["ROUGE-L"] if rouge else []), "same"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        measures = numbers(row.exit_layer, row.draft_length, row.acceptance, row.tokens_per_round)
        over = times(row.speedup_over_transformers, 1)
        score = [number(row.rouge_l, 3)] if rouge else []
        cells = [row.method, *measures, number(row.tokens_per_s, 0), speedup(row), over, *score, same[row.identical]]
        table.add_row(*cells, style=_style(row))
        if (theirs := report.paper(row.method)) is not None:
            measures = numbers(theirs.exit_layer, theirs.draft_length, theirs.acceptance)
            score = [number(theirs.rouge_l, 3)] if rouge else []
            cells = [f"  paper, Table {theirs.table}", *measures, "", "", f"{theirs.speedup:.2f}×            ", ""]
            table.add_row(*cells, *score, style="dim")
    return table


def time_table(report: "Report") -> Table:
    """Where each method's time goes, and how near it comes to what its own drafts would allow."""
    table = grid(None, "method", "prompt", "draft", "decide", "verify", "host", "decoding", "limit", "reached")
    for row in report.rows:
        if row.verify_share is not None:
            drafting = percent(row.prompt_share), percent(row.draft_share), percent(row.decision_share, 1)
            rest = percent(row.verify_share), percent(row.host_share)
            bounds = times(row.decoding_speedup), times(row.limit), percent(row.share_of_limit)
            table.add_row(row.method, *drafting, *rest, *bounds, style=_style(row))
    return table


def check_table(report: "Report") -> Table:
    """What replay says of each rule, beside what was measured, and how much of the best possible that is."""
    table = grid(None, "method", "predicted", "bounds", "measured (95 %)", "measured/\npredicted", "of the\noracle")
    for row in report.rows:
        if row.predicted_speedup is not None and row.regret is not None:
            bounds = f"{row.predicted_low:.2f}–{row.predicted_high:.2f}"
            ratio = f"{row.speedup / row.predicted_speedup:.3f}"
            cells = times(row.predicted_speedup), bounds, speedup(row), ratio, percent(1 - row.regret)
            table.add_row(row.method, *cells, style=_style(row))
    return table


def _style(row: Any) -> str:
    return "bold" if row.method == "lede" else ""


def bench_words(report: "Report") -> Iterator[Text]:
    """The tables' point in a few sentences, what a reader must know of them, and where the run is."""
    facts = report.facts
    baselines = [row for row in report.rows if not row.method.startswith(("lede", "transformers", "autoregressive"))]
    best = max(baselines, key=lambda row: row.speedup, default=None)
    others = [("lede-paper", "the paper's own recipe")]
    if best is not None:
        tuned = f" ({said(best.parameters)})" if best.parameters else ""
        others.insert(0, (best.method, f"the best of the baselines, {best.method}{tuned}"))
    for other, what in others:
        if (lead := report.lead("lede", other)) is not None:
            ratio, low, high = lead
            yield Text(f"lede is {ratio:.2f}× as fast as {what}: 95 % interval {low:.2f}–{high:.2f}")
    yield Text(
        f"intervals: bootstrap over {facts['groups']} groups of prompts (a module, an article, a conversation; else "
        "the prompt itself), the same groups for both methods",
        "dim",
    )
    if any(row.limit is not None for row in report.rows):
        yield Text(
            "prompt: its share of all time; draft, decide, verify, host: theirs of decoding. decoding: the speedup "
            "without prompts; limit: the one that a method's own E, d and acceptance imply, were deciding and the "
            "host's work free; reached: what it has of that",
            "dim",
        )
    if report.costs.doubt:
        yield Text(f"no limits: {report.costs.doubt}", "yellow")
    yield from _check_words(report)
    if parameters := [f"{row.method} ({said(row.parameters)})" for row in report.rows if row.parameters]:
        yield Text(f"tuned on {facts['training_prompts']} training prompts: {'; '.join(parameters)}", "dim")
    for method in dict.fromkeys(difference.method for difference in report.differences):
        yield _differences(report, method, [d for d in report.differences if d.method == method])
    if facts["temperature"]:
        yield Text("sampled, with a seed for each prompt: methods write other texts, of the same distribution", "dim")
    if facts["left_out"]:
        yield Text(f"left out, longer than the model's context: {facts['left_out']} of the prompts", "yellow")
    if facts["resumed"] == facts["samples"]:
        yield Text(f"nothing left to measure, this is what {facts['run']} holds; --fresh measures again")
    elif facts["resumed"]:
        done = f"{facts['resumed']} of {facts['samples']} measurements"
        yield Text(f"went on from {done}; every prompt is in {facts['run']}")
    else:
        yield Text(f"every prompt is in {facts['run']}", "dim")


def _check_words(report: "Report") -> Iterator[Text]:
    """How good the predictions are, and how far to trust them."""
    check = report.check
    if check is None:
        return
    ratios = {row.method: row.speedup / row.predicted_speedup - 1 for row in report.rows if row.predicted_speedup}
    off = [f"{method} ({ratio:+.0%})" for method, ratio in ratios.items() if abs(ratio) > NEAR]
    if off:
        yield Text(f"measured more than {NEAR:.0%} off what was predicted: {', '.join(off)}")
    else:
        yield Text(f"every measured speedup is within {NEAR:.0%} of the predicted one")
    layers = ", ".join(map(str, check.oracle_layers))
    yield Text(
        "predicted: replay of the same texts with costs measured here; bounds: if it did the worst and the best it "
        f"could behind real layers' wrong drafts. oracle: {check.oracle_speedup:.2f}×, the best choice of layer (among "
        f"{layers}) and length in every round, decisions free",
        "dim",
    )
    took = sum(s.seconds for s in report.samples if s.method == "autoregressive") / check.plain_seconds
    if abs(took - 1) > NEAR:
        yield Text(
            f"plain decoding took {took:.2f}× what it takes by these costs: the machine was not the same while "
            "measuring and while calibrating",
            "yellow",
        )
    if check.drift > NEAR:
        yield Text(
            f"the machine was not steady: half of the {check.calibrations} calibrations in this run differ by "
            f"{check.drift:.0%} or more in what a round costs over a plain token",
            "yellow",
        )


def _differences(report: "Report", method: str, parted: "Sequence[Difference]") -> Text:
    """That a method does not write plain decoding's text, and whether rounding explains it."""
    tie = all(d.margin is not None and abs(d.margin) <= NEAR_TIE for d in parted)
    why = "near ties, which rounding decides" if tie else "more than rounding of a near tie explains"
    ours, dtype = not method.startswith("transformers"), report.facts["dtype"]
    if not ours and dtype not in ("float32", "float64"):
        why += f"; transformers rounds differently in {dtype}, in float32 both are the same"
    where = "; ".join(
        f"{d.prompt} from token {d.position + 1}, "
        + ("one text ended" if d.margin is None else f"margin {d.margin:.3g}")
        for d in parted[:SHOWN]
    )
    more = f"; {len(parted) - SHOWN} more" if len(parted) > SHOWN else ""
    prompts = f"{len(parted)} of {report.facts['prompts']} prompts ({where}{more})"
    return Text(f"{method} differs from plain decoding on {prompts}: {why}", "red" if ours else "dim")


def said(value: Any) -> str:
    """Tuned parameters in a few words."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {{{said(v)}}}" if isinstance(v, dict) else f"{k} {said(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(said, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def speedup(row: Any) -> str:
    """With its interval."""
    return f"{row.speedup:.2f}× ({row.speedup_low:.2f}–{row.speedup_high:.2f})"


def times(value: float | None, digits: int = 2) -> str:
    """A factor, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}×"


def percent(share: float | None, digits: int = 0) -> str:
    """A share, or a dash."""
    return "–" if share is None else f"{share:.{digits}%}"
