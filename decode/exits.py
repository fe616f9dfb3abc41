"""Exit heads: what lets early layers of any Llama draft, its own weights untouched (Kangaroo, arXiv 2404.18911).

An exit head for layer E is one decoder block of the model's own shape over E's output, with keys and values of its own,
and a norm; it is read through those rows of the model's head that belong to a draft vocabulary. It is a side branch:
what it says goes into drafts, and verification goes on from the output of layer E itself.

On disk it is a folder of `exits.json` (what it is, for which model, how well it does) and `exits.safetensors`:
`exits.E.<name in a decoder layer>.weight`, `exits.E.norm.weight`, and `draft_vocabulary`, ascending token ids.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lede.decode.config import Config, layer_shapes
from lede.decode.errors import ModelError
from lede.ground import write_whole

if TYPE_CHECKING:
    from torch import Tensor

CARD, WEIGHTS = "exits.json", "exits.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Exits:
    """The exit heads of one model."""

    card: dict[str, Any]  # the content of exits.json
    weights: dict[str, "Tensor"]  # by their names on disk
    fingerprint: str  # of the weights and the draft vocabulary

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a head, ascending."""
        return tuple(self.card["layers"])

    @property
    def vocabulary(self) -> "Tensor | None":
        """Ids that can be drafted, ascending (n,) int64; None: all."""
        ids = self.weights.get("draft_vocabulary")
        return None if ids is None else ids.long()

    def check(self, config: Config, model: str, weights_hash: str) -> None:
        """Raise ModelError unless they are for this model."""
        if self.card["weights_hash"] != weights_hash:
            raise ModelError(
                f"the exit heads are for {self.card['model']} with weights {self.card['weights_hash']}, and {model} "
                f"has {weights_hash}: give --exits of this model, or --exits none"
            )
        names = [*layer_shapes(config).items(), ("norm", (config.hidden_size,))]
        wanted = {f"exits.{layer}.{name}.weight": shape for layer in self.layers for name, shape in names}
        there = {name: tuple(w.shape) for name, w in self.weights.items() if name != "draft_vocabulary"}
        usable = self.layers == tuple(sorted({*self.layers} & {*range(1, config.num_hidden_layers)}))
        if there != wanted or not usable:
            raise ModelError(f"the exit heads do not fit {model}: train them again with lede adapt --exits")


def check_vocabulary(ids: "Tensor", vocabulary: int) -> None:
    """Raise ModelError unless `ids` (n,) can be a draft vocabulary of a model with so many tokens."""
    from lede.process import TOP_K

    if len(ids) < TOP_K or not bool((ids.diff() > 0).all()) or ids[0] < 0 or ids[-1] >= vocabulary:
        raise ModelError(f"a draft vocabulary is {TOP_K} or more ascending token ids under {vocabulary}")


def check_exits(folder: str | Path) -> dict[str, Any]:
    """The card of a folder of exit heads, read without torch. Raises ModelError where there is none."""
    try:
        card: dict[str, Any] = json.loads((Path(folder) / CARD).read_text("utf-8"))
        known = card["layers"] and {"format", "model", "weights_hash", "fingerprint"} <= card.keys()
        if not known or not (Path(folder) / WEIGHTS).is_file():
            raise KeyError(WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(
            f"there are no exit heads in {folder}: give a folder that lede adapt --exits wrote, or --exits none"
        ) from None
    if card["format"] != FORMAT:
        raise ModelError(f"the exit heads in {folder} are of format {card['format']}, this version reads {FORMAT}")
    return card


def load_exits(folder: str | Path) -> Exits:
    """Exit heads from a folder. Raises ModelError where there are none, or they are torn."""
    from safetensors.torch import load_file

    card = check_exits(folder)
    try:
        weights = load_file(Path(folder) / WEIGHTS)
    except Exception as error:  # the library has its own kinds for a torn file
        raise ModelError(f"the exit heads in {folder} cannot be read: {error}") from error
    found = fingerprint(weights)
    if card["fingerprint"] != found:
        raise ModelError(f"{CARD} in {folder} is of other weights than {WEIGHTS}: train the exit heads again")
    return Exits(card, weights, found)


def save_exits(folder: str | Path, card: dict[str, Any], weights: dict[str, "Tensor"]) -> Exits:
    """Write exit heads; `card` gets the format and the fingerprint.

    A kill leaves the old ones, the new ones, or two files that `load_exits` refuses as not belonging together.
    """
    from safetensors.torch import save

    folder, card = Path(folder), card | {"format": FORMAT, "fingerprint": fingerprint(weights)}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, save({name: weight.contiguous() for name, weight in weights.items()}))
    write_whole(folder / CARD, json.dumps(card, indent=2) + "\n")
    return Exits(card, weights, card["fingerprint"])


def fingerprint(weights: dict[str, "Tensor"]) -> str:
    """Names heads and draft vocabulary by all their bytes."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
