"""`lede calibrate`: the costs of a model on this device, with all that says what they are the costs of."""

import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

from lede.decode.device import device_facts
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
