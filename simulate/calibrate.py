"""`lede calibrate`: the costs of a model on this device, with all that says what they are the costs of."""

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lede.decode.facts import model_facts
from lede.decode.model import Model
from lede.simulate.calibration import Calibration
from lede.simulate.profile import SECONDS, measure

PACKAGES = ("lede", "torch", "transformers")


def calibrate(
    model: Model, seconds: float = SECONDS, progress: Callable[[float], None] = lambda share: None
) -> Calibration:
    """Measure for about so many seconds. `progress` is told which share of them has passed."""
    return Calibration(
        costs=measure(model, seconds, progress),
        model=model_facts(model),
        dtype=str(model.dtype).removeprefix("torch."),
        device=device_facts(model),
        versions={name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def device_facts(model: Model) -> dict[str, Any]:
    """{type, name, threads} of the device that decodes."""
    cuda = model.device.type == "cuda"
    name = torch.cuda.get_device_name(model.device) if cuda else cpu_name()
    return {"type": model.device.type, "name": name, "threads": torch.get_num_threads()}


def cpu_name() -> str:
    """The processor's own name where the system tells it, else its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
