"""What all pictures share: figures that need no display, and files of a format that can be drawn."""

from pathlib import Path
from typing import Any

from lede.replay.errors import DatasetError

OURS, OTHERS, INK = "#1f6fb4", "#9aa5b1", "#333333"


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    return Figure(figsize=(width, height), layout="constrained")


def check_format(path: Path) -> None:
    """Raise DatasetError unless a picture can be drawn into a file of this name."""
    formats = figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in formats:
        raise DatasetError(f"cannot draw into {path}: the name must end in one of .{', .'.join(sorted(formats))}")


def save(picture: Any, path: Path) -> Path:
    """Write a figure in the format that the name's suffix says; missing folders are made. Raises as `check_format`."""
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for axes in picture.axes:
        axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=140)
    return path
