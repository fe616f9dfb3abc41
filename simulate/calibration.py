"""A device's costs in a file of their own: what `lede calibrate` measures and writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lede.decode.device import device_facts
from lede.decode.facts import model_facts
from lede.replay.errors import DatasetError
from lede.replay.header import read_json, to_json
from lede.replay.store import File, open_store
from lede.simulate.costs import Costs

if TYPE_CHECKING:
    from lede.decode.model import Model

FORMAT = 1
# Of a model: what its costs and its layers depend on.
IDENTITY = ("config_hash", "weights_hash", "layers", "vocab", "exits", "draft_vocabulary")
KINDS = {"costs": dict, "model": dict, "dtype": str, "device": dict, "versions": dict, "measured": str}


@dataclass(frozen=True)
class Calibration:
    """Costs, and of what: model (as in `dataset.json`), dtype, device {type, name, threads}, versions, UTC time."""

    costs: Costs
    model: dict[str, Any]
    dtype: str
    device: dict[str, Any]
    versions: dict[str, str]
    measured: str

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "costs": self.costs.to_json()}


def calibrate(model: Model, seconds: float, progress: Callable[[float], None] = lambda share: None) -> Calibration:
    """Measure for about so many seconds. `progress` is told which share of them has passed."""
    from lede.simulate.profile import measure  # it imports torch, which reading a calibration does not need

    return Calibration(
        costs=measure(model, seconds, progress),
        model=model_facts(model),
        dtype=str(model.dtype).removeprefix("torch."),
        device=device_facts(model.device),
        versions={name: version(name) for name in ("lede", "torch", "transformers")},
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def save_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Write the file atomically, over an older one. Raises `OSError`."""
    file = Path(path)
    open_store(file.parent).replace(file.name, to_json(calibration.to_json()))


def load_calibration(path: str | os.PathLike[str], model: Mapping[str, Any]) -> Calibration:
    """Read what `save_calibration` wrote of this model.

    Raises `DatasetError` if there is no such file, it is not a calibration, or it is another model's.
    """
    path, again = Path(path), "measure again with `lede calibrate`"
    if not path.is_file():
        raise DatasetError(f"{path} does not exist: measure with `lede calibrate`")
    content = read_json(File(open_store(path.parent), path.name))
    if content.get("format") != FORMAT:
        raise DatasetError(f"{path} is not a calibration of format {FORMAT}: {again}")
    for name, kind in KINDS.items():
        if not isinstance(content.get(name), kind):
            raise DatasetError(f"{path} has no {name}: {again}")
    theirs = content["model"]
    if other := [name for name in IDENTITY if model.get(name) != theirs.get(name)]:
        raise DatasetError(
            f"{path} is of the model {theirs.get('name')}, not of {model.get('name')} ({', '.join(other)} differ): "
            "measure with `lede calibrate --model`, or name another file"
        )
    try:
        costs = Costs.from_json(content["costs"])
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    return Calibration(**{name: content[name] for name in KINDS} | {"costs": costs})
