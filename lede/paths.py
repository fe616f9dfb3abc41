"""Where things are when nothing else is said: the embedded model, `data/<model>`, `policies/<dataset>`."""

import os
from pathlib import Path

EMBEDDED = "lede-tiny"


def default_model_path() -> Path:
    """The embedded model's folder, a `transformers` checkpoint."""
    return Path(__file__).parent / "models" / EMBEDDED


def default_policy_path() -> Path:
    """The folder of the policy for the embedded model that is in the package, learned with another machine's costs."""
    return Path(__file__).parent / "policies" / EMBEDDED


def usual_policy(model: str | None) -> Path | None:
    """The policy that decodes a model when none is named: `policies/<model name>`, or the embedded model's own."""
    learned = policy_path(dataset_path(model))
    shipped = default_policy_path() if model_path(model) == str(default_model_path()) else learned
    return next((folder for folder in (learned, shipped) if folder.is_dir()), None)


def model_path(model: str | None) -> str:
    """The model named on the command line, or the embedded one (also by its name)."""
    return str(default_model_path()) if model in (None, EMBEDDED) else os.path.expanduser(str(model))


def model_name(model: str | None) -> str:
    """The last part of a model's name: that of its dataset."""
    return Path(os.path.abspath(model_path(model))).name


def dataset_path(model: str | None) -> Path:
    """`data/<model name>`."""
    return Path("data") / model_name(model)


def calibration_path(model: str | None) -> Path:
    """`data/<model name>.calibration.json`: beside the dataset, not in it, for it is a machine's, and data travel."""
    return Path("data") / f"{model_name(model)}.calibration.json"


def policy_path(dataset: str | Path, preset: str = "default") -> Path:
    """`policies/<dataset name>`; other presets have theirs beside it, `policies/<dataset name>-<preset>`."""
    name = Path(dataset).resolve().name
    return Path("policies") / (name if preset == "default" else f"{name}-{preset}")


def usual_policies(dataset: str | Path) -> dict[str, Path]:
    """By the names of their rows in tables: where `lede learn` puts what it learned, whether or not it is there."""
    return {
        row: policy_path(dataset, preset)
        for row, preset in (("lede", "default"), ("lede-paper", "paper"), ("lede-exits", "exits"))
    }
