"""The policy artefact: a folder with `policy.safetensors` (numbers) and `policy.json` (everything else).

A policy is a small ReLU network over one decision's features; its two outputs are the values of `continue` and `exit`.
It depends on nothing but numpy and safetensors and is never a pickle, so it can be loaded from anyone.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_tensors
from safetensors.numpy import save as write_tensors

from lede.ground import UserError, write_whole
from lede.process import CONTINUE, EXIT, MAX_DRAFTS

FORMAT = 1
WEIGHTS = "policy.safetensors"
FACTS = "policy.json"
NEAR = 0.3  # temperatures no farther from those learned from are served as well

Array = NDArray[np.float32]


class PolicyError(UserError, ValueError):
    """A policy cannot be loaded, or does not fit the model it is to steer."""


@dataclass(frozen=True, eq=False)
class Policy:
    """An exit policy.

    features: names of the F inputs, in order, as in `replay`'s `Columns.feature_names`.
    layers: the candidate exit layers it was trained for, ascending; 0 stands for prompt lookup.
    weights: ((W, b), ...) of the network, W (outputs, inputs) and b (outputs,); ReLU between, two outputs at the end.
    mean, scale: (F,), inputs are standardised as (x - mean) / scale.
    matrices: the network on raw features, as `values` evaluates it: ((W, b), ...), W (inputs, outputs).
    info: the rest of `policy.json`: model, dataset, hyperparameters, training summary, lede version.
    draft_vocabulary: ids of the tokens that its model drafted from when it was trained, ascending; None: all.

    Raises PolicyError if shapes do not fit together or a number is not finite.
    """

    features: tuple[str, ...]
    layers: tuple[int, ...]
    weights: tuple[tuple[Array, Array], ...]
    mean: Array
    scale: Array
    info: dict[str, Any] = field(default_factory=dict)
    draft_vocabulary: tuple[int, ...] | None = None
    matrices: tuple[tuple[Array, Array], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_shapes(self)
        # The standardisation is folded into the first layer and the matrices are kept transposed: two numpy calls less
        # per row, and the same code serves one row and many.
        (first, bias), *rest = self.weights
        folded = first.astype(np.float64) / self.scale
        shifted = bias - folded @ self.mean.astype(np.float64)
        object.__setattr__(self, "matrices", ((_f32(folded.T), _f32(shifted)), *((_f32(w.T), b) for w, b in rest)))

    @property
    def max_drafts(self) -> int:
        """Drafts a round that it was trained for; 12 where it does not say, as in the paper (§4.1)."""
        return int(self.info.get("max_drafts", MAX_DRAFTS))

    def unlike(self, temperature: float) -> str | None:
        """What sets texts of this temperature (0: greedy) apart from those that it learned from, in a line.

        None where nothing does, or it does not say what it learned from.
        """
        told = self.info.get("training", {}).get("temperatures")
        if told is None:
            return None
        low, high, sampled = (float(told[name]) for name in ("min", "max", "sampled"))
        known = sampled > 0 and low - NEAR <= temperature <= high + NEAR if temperature else sampled < 1
        if known:
            return None
        heat = f"at temperature {low:g}" if low == high else f"at temperatures from {low:g} to {high:g}"
        return (
            f"the policy learned from {f'texts sampled {heat}' if sampled else 'greedy texts'}, and this one is "
            f"{f'sampled at {temperature:g}' if temperature else 'greedy'}: it may be slow (the text is the same); "
            "collect such texts, and learn from them"
        )

    def values(self, row: Array) -> Array:
        """Values of [continue, exit], (2,), of one row of raw features (F,) float32; (N, 2) of N rows (N, F)."""
        return forward(self.matrices, row)

    def exits(self, row: Array) -> Any:
        """Whether to exit: bool for one row, (N,) for N. A tie continues."""
        values = self.values(row)
        return values[..., EXIT] > values[..., CONTINUE]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the two files; each appears whole or not at all, and `policy.json` names the weights it belongs to."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, NDArray[Any]] = {"mean": _f32(self.mean), "scale": _f32(self.scale)}
        for number, (weight, bias) in enumerate(self.weights):
            tensors |= {f"layer{number}.weight": _f32(weight), f"layer{number}.bias": _f32(bias)}
        if self.draft_vocabulary is not None:
            tensors["draft_vocabulary"] = np.array(self.draft_vocabulary, np.int32)
        blob = write_tensors(tensors)
        facts = self.info | {"format": FORMAT, "features": list(self.features), "layers": list(self.layers)}
        facts["weights_sha256"] = hashlib.sha256(blob).hexdigest()
        for name, content in ((WEIGHTS, blob), (FACTS, json.dumps(facts, indent=2, sort_keys=True).encode() + b"\n")):
            write_whole(target / name, content)


def forward(matrices: Sequence[tuple[NDArray[Any], NDArray[Any]]], rows: NDArray[Any]) -> NDArray[Any]:
    """Rows (…, inputs) through a network ((W, b), ...), W (inputs, outputs), ReLU between: (…, outputs)."""
    *hidden, (last, offset) = matrices
    for weight, bias in hidden:
        rows = np.maximum(rows.dot(weight) + bias, 0)
    return rows.dot(last) + offset


def load_policy(folder: str | os.PathLike[str]) -> Policy:
    """Load a policy from its folder. Raises PolicyError that names what is missing or does not fit."""
    path = Path(folder)
    for name in (FACTS, WEIGHTS):
        if not (path / name).is_file():
            what = f"is not a policy: {name} is missing" if path.is_dir() else "is no policy: there is no such folder"
            raise PolicyError(f"{path} {what}; train one with `lede learn`")
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        version = facts.pop("format")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PolicyError(f"{path / FACTS} is not a policy description; train one with `lede learn`") from None
    if not isinstance(version, int) or version > FORMAT:
        raise PolicyError(f"{path} has format {version}, this version of lede reads up to {FORMAT}; upgrade lede")
    blob = (path / WEIGHTS).read_bytes()
    if facts.pop("weights_sha256", None) != hashlib.sha256(blob).hexdigest():
        raise PolicyError(f"{path}: {WEIGHTS} is not the file {FACTS} was written with; copy or train the policy again")
    try:
        tensors = read_tensors(blob)
        count = sum(name.endswith(".weight") for name in tensors)
        weights = tuple((tensors[f"layer{i}.weight"], tensors[f"layer{i}.bias"]) for i in range(count))
        features, layers = tuple(facts.pop("features")), tuple(facts.pop("layers"))
        ids = tensors.get("draft_vocabulary")
        drafted = None if ids is None else tuple(ids.tolist())
        return Policy(features, layers, weights, tensors["mean"], tensors["scale"], facts, drafted)
    except SafetensorError as error:
        raise PolicyError(f"{path / WEIGHTS} is not a safetensors file ({error}); train the policy again") from None
    except (KeyError, TypeError) as error:
        raise PolicyError(f"{path} is not a policy: {error} is missing or malformed; train the policy again") from None
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from None


def check_fits(policy: Policy, model_facts: dict[str, Any]) -> None:
    """Raise PolicyError unless the policy was trained on this model.

    model_facts: as `decode.facts.model_facts` has them, what early layers draft with included. The name may differ: a
    model is called one thing on a hub and another in a local folder.
    """
    trained = policy.info.get("model", {})
    theirs, ours = trained.get("name", "an unnamed model"), model_facts["name"]
    for key, what in (
        ("layers", "another number of layers"),
        ("config_hash", "another architecture"),
        ("config_hash_v2", "another head size or rotary embedding"),
        ("weights_hash", "other weights"),
    ):
        wanted, have = trained.get(key), model_facts.get(key)
        if wanted != have:
            raise PolicyError(
                f"the policy is for {theirs} with {what} ({wanted}) than {ours} has ({have}); "
                "use the policy's model, or train a policy on this one's dataset"
            )
    for key, what, cure in (
        ("exits", "set of exit heads", "give its exit heads with --exits, or --exits none where it has none"),
        ("draft_vocabulary", "draft vocabulary", "load the model with the policy's draft vocabulary"),
    ):
        wanted, have = trained.get(key), model_facts.get(key)
        if wanted != have and {*policy.layers} - {0, model_facts["layers"]}:  # layer 0 drafts with neither
            raise PolicyError(
                f"the policy was learned with another {what} ({wanted or 'none'}) than {ours} has here "
                f"({have or 'none'}): {cure}, or train a policy"
            )
    if max(policy.layers) > model_facts["layers"]:
        raise PolicyError(f"the policy exits at layer {max(policy.layers)}, but {ours} has {model_facts['layers']}")


def _check_shapes(policy: Policy) -> None:
    width = len(policy.features)
    if not policy.layers or list(policy.layers) != sorted(set(policy.layers)) or policy.layers[0] < 0:
        raise PolicyError(f"candidate layers must be ascending and distinct, not {list(policy.layers)}")
    indicators = {name for name in policy.features if name.startswith("layer=")}
    if indicators and indicators != {f"layer={layer}" for layer in policy.layers}:
        raise PolicyError(f"the layers named by its features ({', '.join(sorted(indicators))}) are not its candidates")
    if not policy.mean.shape == policy.scale.shape == (width,) or not (policy.scale > 0).all():
        raise PolicyError(f"mean and scale must have {width} numbers, one per feature, scales above 0")
    for number, (weight, bias) in enumerate(policy.weights):
        if weight.ndim != 2 or weight.shape[1] != width or bias.shape != weight.shape[:1]:
            raise PolicyError(f"layer {number} has shapes {weight.shape} and {bias.shape}, but {width} inputs")
        width = weight.shape[0]
    if not policy.weights or width != 2:
        raise PolicyError("the network must have two outputs, continue and exit")
    arrays = [policy.mean, policy.scale, *(part for pair in policy.weights for part in pair)]
    if not all(np.isfinite(part).all() for part in arrays):
        raise PolicyError("a weight is not a finite number; train the policy again")


def _f32(array: NDArray[Any]) -> Array:
    return np.ascontiguousarray(array, dtype=np.float32)
