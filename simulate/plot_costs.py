"""A picture of measured costs."""

from pathlib import Path

from lede.replay.pictures import figure, save
from lede.simulate.calibration import Calibration
from lede.simulate.costs import MAX_ROWS


def plot_calibration(calibration: Calibration, out: Path) -> None:
    """Draw layer and head against rows, and rounds against their drafts; the suffix of `out` says the format.

    Raises `DatasetError` for a format that cannot be drawn, `OSError`.
    """
    costs, device, picture = calibration.costs, calibration.device, figure(12, 4.6)
    picture.suptitle(
        f"{calibration.model.get('name')} · {calibration.dtype} · {device.get('name')}, "
        f"{device.get('threads')} threads · {costs.context} positions cached"
    )
    passes, rounds = picture.subplots(1, 2)
    counts = range(1, MAX_ROWS + 1)
    passes.plot(counts, costs.layer, "o-", label="layer")
    passes.plot(counts, costs.head, "o-", label="head")
    passes.axhline(costs.first(), linestyle=":", label="layer, plain decoding")
    passes.set(xlabel="rows in the pass", ylabel="milliseconds of a pass", ylim=(0, None))
    for layer in sorted({0, costs.layers // 4, costs.layers // 2}):
        drafts = range(1, MAX_ROWS)
        rounds.plot(drafts, [costs.fixed(layer, d) for d in drafts], label=f"layer {layer}" if layer else "lookup")
    rounds.axhline(costs.plain(), linestyle=":", label="a token of plain decoding")
    rounds.set(xlabel="drafts in the round", ylabel="milliseconds of a round, decisions not included", ylim=(0, None))
    for axes in (passes, rounds):
        axes.legend(frameon=False)
    save(picture, out)
