"""What all pictures share: figures that need no display, and files of a format that can be drawn."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from lede.replay.errors import DatasetError

OURS, OTHERS, INK = "#1f6fb4", "#9aa5b1", "#333333"


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure of so many inches."""
    if "matplotlib" not in sys.modules:
        os.environ.pop("MPLBACKEND", None)  # a notebook's, which need not be installed here: the import would fail
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that it can keep no cache costs time, nothing else
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    return Figure(figsize=(width, height), layout="constrained")


def check_format(path: Path) -> None:
    """Raise DatasetError unless a picture can be drawn into a file of this name; missing folders are made."""
    formats = figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in formats:
        raise DatasetError(f"cannot draw into {path}: the name must end in one of .{', .'.join(sorted(formats))}")
    path.parent.mkdir(parents=True, exist_ok=True)


def save(picture: Any, path: Path) -> Path:
    """Write a figure in the format that the name's suffix says. Raises as `check_format`."""
    check_format(path)
    for axes in picture.axes:
        axes.spines[["top", "right"]].set_visible(False)
    picture.savefig(path, dpi=140)
    return path
