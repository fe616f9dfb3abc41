"""What `lede bench` prints for people: the paper's measures, where the time goes, and the point in words."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from lede.bench.names import BASELINE, FAMILIES, FOREIGN, KNOWN, LLAMA_CPPS
from lede.tables import grid, number, numbers

if TYPE_CHECKING:
    from lede.bench.differences import Difference
    from lede.bench.run import Report

NEAR_TIE = 0.05  # logits: below it a difference is what rounding explains
NEAR = 0.05  # share by which a prediction may be off without a word
SHOWN = 3  # differences told one by one


def bench_title(report: "Report") -> Text:
    """Whose numbers these are."""
    facts = report.facts
    return Text.assemble(
        (f"{facts['model']} · {facts['task']}", "bold"),
        f" · {facts['dtype']} · {facts['device']}, {facts['threads']} thread{'s' if facts['threads'] != 1 else ''} · "
        f"{facts['prompts']} held-out prompts, {facts['max_new_tokens']} tokens, {report.chosen}",
    )


def bench_table(report: "Report") -> Table:
    """The paper's measures, one row per method; the paper's own numbers under it where it has some."""
    rouge = ["ROUGE-L"] if any(row.rouge_l is not None for row in report.rows) else []
    same = {True: "yes", False: "no", None: "–"}
    headings = ("E", "d", "accept", "tokens\n/round", "tokens\n/s", "speedup (95 %)", "over\nlibrary")
    table = grid(None, "method", *headings, *rouge, "same")
    for row in report.rows:
        measures = numbers(row.exit_layer, row.draft_length, row.acceptance, row.tokens_per_round)
        rates = number(row.tokens_per_s, 0), _speedup(row), _times(row.speedup_over_transformers, 1)
        score = [number(row.rouge_l, 3) for _ in rouge]
        table.add_row(row.method, *measures, *rates, *score, same[row.identical], style=_style(row))
        if (theirs := report.paper(row.method)) is not None:
            measures = numbers(theirs.exit_layer, theirs.draft_length, theirs.acceptance)
            score = ["", "", f"{theirs.speedup:.2f}×            ", "", *(number(theirs.rouge_l, 3) for _ in rouge)]
            table.add_row(f"  paper, Table {theirs.table}", *measures, *score, style="dim")
    return table


def time_table(report: "Report") -> Table:
    """Where each method's time goes: of all of it reading the prompt, the others of decoding."""
    table = grid(None, "method", "prompt", "draft", "decide", "verify", "host", "choose")
    for row in report.rows:
        if row.verify_share is not None:
            shares = row.prompt_share, row.draft_share, row.decision_share, row.verify_share, row.host_share
            cells = (f"{share:.1%}" for share in (*shares, row.choose_share))
            table.add_row(row.method, *cells, style=_style(row))
    return table


def category_table(report: "Report") -> Table:
    """Each method's speedup by category of prompts; their intervals are in `--json`."""
    table = grid(None, "speedup", *report.categories)
    for row in report.rows:
        cells = ([mine for mine in rows if mine.method == row.method] for rows in report.categories.values())
        table.add_row(row.method, *(_times(mine[0].speedup) if mine else "–" for mine in cells), style=_style(row))
    return table


def check_table(report: "Report") -> Table:
    """What replay says of each rule, beside what was measured, and how much of the best possible that is."""
    table = grid(None, "method", "predicted", "bounds", "measured (95 %)", "measured/\npredicted", "of the\noracle")
    for row in report.rows:
        if report.check is not None and row.method in report.check.predictions:
            predicted, low, high = report.check.predictions[row.method]
            share = f"{row.speedup / report.check.oracle_speedup:.0%}"
            cells = _times(predicted), f"{low:.2f}–{high:.2f}", _speedup(row), f"{row.speedup / predicted:.3f}", share
            table.add_row(row.method, *cells, style=_style(row))
    return table


def _style(row: Any) -> str:
    return "bold" if row.method == "lede" or row.method not in KNOWN else ""


def bench_words(report: "Report") -> Iterator[Text]:
    """The tables' point in a few sentences, what a reader must know of them, and where the run is."""
    facts = report.facts
    others = {"lede-paper": "the paper's own recipe"}
    others |= {row.method: f"the policy {row.method}" for row in report.rows if row.method not in KNOWN}
    baselines = [row for row in report.rows if row.method in FAMILIES]
    if best := max(baselines, key=lambda row: row.speedup, default=None):
        others = {best.method: f"the best of the baselines, {best.method} ({_listed(best.parameters)})"} | others
    for other, what in others.items():
        if (lead := report.lead("lede", other)) is not None:
            ratio, low, high = lead
            yield Text(f"lede is {ratio:.2f}× as fast as {what}: 95 % interval {low:.2f}–{high:.2f}")
    yield Text(
        f"intervals: bootstrap over {facts['groups']} groups of prompts (a module, an article, a conversation; else "
        "the prompt itself), the same groups for both methods",
        "dim",
    )
    yield Text(
        "prompt: its share of all time; draft, decide, verify, host: theirs of decoding; choose: the share of drafting "
        "and verifying in which tokens are made of logits",
        "dim",
    )
    if report.costs.doubt:
        yield Text(report.costs.doubt, "yellow")
    yield from _check_words(report)
    if parameters := [f"{row.method} ({_listed(row.parameters)})" for row in report.rows if row.parameters]:
        yield Text(f"tuned on {facts['training_prompts']} training prompts: {'; '.join(parameters)}", "dim")
    for method in dict.fromkeys(difference.method for difference in report.differences):
        yield _differences(report, method, [d for d in report.differences if d.method == method])
    if facts["temperature"]:
        yield Text("sampled, each prompt with a seed of its own: every method of ours writes one text", "dim")
        if foreign := [row.method for row in report.rows if row.method in FOREIGN]:
            yield Text(
                f"{', '.join(foreign)}: sampled from the library's own random numbers, so another text, which is timed "
                "and not compared",
                "dim",
            )
    if facts["left_out"]:
        yield Text(f"left out, longer than the model's context: {facts['left_out']} of the prompts", "yellow")
    if facts["resumed"] == facts["samples"]:
        yield Text(f"nothing left to measure, this is what {facts['run']} holds; --fresh measures again")
    else:
        done = f"went on from {facts['resumed']} of {facts['samples']} measurements; " if facts["resumed"] else ""
        yield Text(f"{done}every prompt is in {facts['run']}", "" if done else "dim")


def _check_words(report: "Report") -> Iterator[Text]:
    """How good the predictions are, and how far to trust them."""
    check = report.check
    if check is None:
        return
    predicted = check.predictions
    ratios = {r.method: r.speedup / predicted[r.method][0] - 1 for r in report.rows if r.method in predicted}
    if off := [f"{method} ({ratio:+.0%})" for method, ratio in ratios.items() if abs(ratio) > NEAR]:
        yield Text(f"measured more than {NEAR:.0%} off what was predicted: {', '.join(off)}")
    else:
        yield Text(f"every measured speedup is within {NEAR:.0%} of the predicted one")
    yield Text(
        "predicted: replay of the same texts with costs measured here; bounds: if it did the worst and the best it "
        f"could behind real layers' wrong drafts. oracle: {check.oracle_speedup:.2f}×, the best choice of layer (among "
        f"{', '.join(map(str, check.oracle_layers))}) and length in every round, decisions free",
        "dim",
    )
    took = sum(s.seconds for s in report.samples if s.method == BASELINE) / check.plain_seconds
    if abs(took - 1) > NEAR:
        yield Text(
            f"plain decoding took {took:.2f}× what it takes by these costs: the machine was not the same while "
            "measuring and while calibrating",
            "yellow",
        )


def _differences(report: "Report", method: str, parted: "Sequence[Difference]") -> Text:
    """That a method does not write plain decoding's text, and whether rounding explains it."""
    tie = all(d.margin is not None and abs(d.margin) <= NEAR_TIE for d in parted)
    why = "near ties, which rounding decides" if tie else "more than rounding of a near tie explains"
    ours, dtype = method not in FOREIGN, report.facts["dtype"]
    if method in LLAMA_CPPS:
        why = "it sums in another order, and q8_0 rounds the weights"
    elif not ours and dtype not in ("float32", "float64"):
        why += f"; transformers rounds differently in {dtype}, in float32 both are the same"
    ends = ("one text ended" if d.margin is None else f"margin {d.margin:.3g}" for d in parted)
    where = [f"{d.prompt} from token {d.position + 1}, {end}" for d, end in zip(parted, ends, strict=True)]
    more = [f"{len(parted) - SHOWN} more"] if len(parted) > SHOWN else []
    prompts = f"{len(parted)} of {report.facts['prompts']} prompts ({'; '.join(where[:SHOWN] + more)})"
    return Text(f"{method} differs from plain decoding on {prompts}: {why}", "red" if ours else "dim")


def _listed(value: Any) -> str:
    """Parameters in a few words."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {f'{{{_listed(v)}}}' if isinstance(v, dict) else _listed(v)}" for k, v in value.items())
    if isinstance(value, list):
        return f"[{', '.join(map(_listed, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _speedup(row: Any) -> str:
    return f"{row.speedup:.2f}× ({row.speedup_low:.2f}–{row.speedup_high:.2f})"


def _times(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}×"
