"""A device's costs in a file of their own: what `lede calibrate` writes, and what is checked before they are used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lede.replay.errors import DatasetError
from lede.replay.files import read_json, write_json
from lede.simulate.costs import Costs

FORMAT = 1
IDENTITY = ("config_hash", "weights_hash", "layers", "vocab")  # of a model: what its costs and its layers depend on


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


def save_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Write the file atomically, over an older one. Raises `OSError`."""
    write_json(Path(path), calibration.to_json())


def load_calibration(path: str | os.PathLike[str], model: Mapping[str, Any] | None = None) -> Calibration:
    """Read what `save_calibration` wrote. model: what the costs are wanted for; None: whatever they are of.

    Raises `DatasetError` if there is no such file, it is not a calibration, or it is another model's.
    """
    path, again = Path(path), "measure again with `lede calibrate`"
    if not path.is_file():
        raise DatasetError(f"{path} does not exist: measure with `lede calibrate`")
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise DatasetError(f"{path} is not a calibration of format {FORMAT}: {again}")
    kinds = {"costs": dict, "model": dict, "dtype": str, "device": dict, "versions": dict, "measured": str}
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            raise DatasetError(f"{path} has no {name}: {again}")
    values: dict[str, Any] = {name: content[name] for name in kinds}
    try:
        costs = Costs.from_json(values["costs"])
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    found = Calibration(**values | {"costs": costs})
    other = [name for name in IDENTITY if model is not None and model.get(name) != found.model.get(name)]
    if model is not None and other:
        raise DatasetError(
            f"{path} is of the model {found.model.get('name')}, not of {model.get('name')} ({', '.join(other)} "
            "differ): measure with `lede calibrate --model`, or name another file"
        )
    return found


def breakdown(costs: Costs, exit_layer: int, drafts: int) -> dict[str, float]:
    """Milliseconds of a round that walks straight to `exit_layer` and decides at every draft, by what takes them."""
    e, d = exit_layer, drafts
    if d == 0:
        return {"verification": costs.plain()}
    layers = e * (costs.first() + d * costs.again()) if e else 0.0
    return {
        "early layers": layers,
        "draft heads": d * costs.head[0] if e else 0.0,
        "states and decisions": d * (costs.decision + (costs.features if e else 0.0)),
        "lookup": (d - (e > 0)) * costs.lookup,
        "verification": (costs.layers - e) * costs.layer[d] + costs.head[d],
        "round": costs.round + costs.index + costs.trace,
    }
