"""A bench as pictures, one per table."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lede.bench.names import BASELINE, FOREIGN, WITHOUT_POLICY
from lede.bench.run import Report
from lede.simulate import plot


def draw(path: Path, reports: Sequence[Report]) -> list[Path]:
    """Into a file (.png, .svg, …) the only table; into a folder a picture of each. Returns what was written."""
    return [_draw(path if path.suffix else path / _name(report), report) for report in reports]


def _name(report: Report) -> str:
    facts = report.facts
    sampled = f"-{facts['temperature']:g}" if facts["temperature"] else ""
    return f"{facts['model']}-{facts['task']}{sampled}.png"


def _draw(path: Path, report: Report) -> Path:
    exits = {row.method: Counter[int]() for row in report.rows}
    for sample in report.samples:
        exits[sample.method].update(layer for layer in sample.exits if layer is not None)
    rows = [
        plot.Drawn(
            *(row.method, row.speedup, row.speedup_low, row.speedup_high, row.exit_layer, row.acceptance),
            exits[row.method],
            row.method not in (*WITHOUT_POLICY, *FOREIGN),
        )
        for row in report.rows
    ]
    title = " · ".join(str(report.facts[name]) for name in ("model", "task", "dtype", "device"))
    about = f"speedup over {BASELINE} decoding on {report.facts['prompts']} prompts, {report.chosen}, 95 % interval"
    return plot.draw(path, rows, title, about)
