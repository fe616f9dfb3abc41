"""What the operations of speculative decoding cost on one device: the measured base of the time reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from replay.errors import DatasetError

MAX_ROWS = 13  # the last committed token and twelve drafts


@dataclass(frozen=True)
class Costs:
    """Milliseconds of each operation. Layers are counted 1..`layers`; layer 0 is the prompt lookup."""

    layers: int
    layer: tuple[float, ...]  # one layer over 1, 2, …, 13 rows
    head: tuple[float, ...]  # final norm and head over 1, 2, …, 13 rows
    features: float  # the state of one row, from its logits
    decision: float  # one call of the exit rule
    lookup: float  # one query of the prompt-lookup index, and one push to it
    round: float  # what a round costs whatever it does

    def __post_init__(self) -> None:
        if len(self.layer) != MAX_ROWS or len(self.head) != MAX_ROWS:
            raise DatasetError(f"costs must give a layer and the head at 1 to {MAX_ROWS} rows, measure them again")

    def step(self, lo: int, hi: int) -> float:
        """Walk from candidate `lo` on to candidate `hi` >= 1, and decide there."""
        return (hi - lo) * self.layer[0] + self.head[0] + self.features + self.decision

    @property
    def visit0(self) -> float:
        """Look at candidate 0, and decide there."""
        return self.lookup + self.decision

    def draft(self, exit_layer: int) -> float:
        """Reach the state of the next draft at `exit_layer`, and decide there."""
        return self.visit0 if exit_layer == 0 else self.step(0, exit_layer)

    def finish(self, exit_layer: int, drafts: int) -> float:
        """Verify 1 to 12 `drafts`: the bonus token's early pass, and the upper layers over drafts + 1 rows."""
        upper = (self.layers - exit_layer) * self.layer[drafts]
        return exit_layer * self.layer[0] + upper + self.head[drafts] + self.round

    def plain(self) -> float:
        """One token of autoregressive decoding."""
        return self.layers * self.layer[0] + self.head[0]

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Costs:
        """Inverse of `to_json`; unknown keys are ignored. Raises `DatasetError` if one is missing."""
        missing = [field.name for field in fields(cls) if field.name not in data]
        if missing:
            raise DatasetError(f"costs lack {', '.join(missing)}: measure them again")
        values: dict[str, Any] = {field.name: data[field.name] for field in fields(cls)}
        return cls(**{**values, "layer": tuple(data["layer"]), "head": tuple(data["head"])})
