"""lede: large language models that write faster without changing a word of what they write.

    import lede

    model = lede.load_model("lede-tiny")
    policy = lede.load_policy(lede.default_policy_path("lede-tiny"))
    print(lede.generate(model, "def mean(values):", policy=policy, max_new_tokens=64).text)

Names are imported when they are first used, so that `import lede` costs nothing.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lede.decode.model import Model as Model
    from lede.decode.round import Generation as Generation
    from lede.loading import load_model as load_model
    from lede.paths import default_model_path as default_model_path
    from lede.paths import default_policy_path as default_policy_path
    from lede.policy import Policy as Policy
    from lede.policy import load_policy as load_policy
    from lede.replay.reader import open_dataset as open_dataset
    from lede.serve.generate import generate as generate

if not os.path.isdir(os.path.join(os.path.dirname(__file__), "decode")):
    raise ImportError(
        "lede/decode and the folders beside it should be links, and are plain files: check the repository out again "
        "with  git config core.symlinks true, or install the package with pip"
    )

_HOME = {
    "Generation": "lede.decode.round",
    "Model": "lede.decode.model",
    "Policy": "lede.policy",
    "default_model_path": "lede.paths",
    "default_policy_path": "lede.paths",
    "generate": "lede.serve.generate",
    "load_model": "lede.loading",
    "load_policy": "lede.policy",
    "open_dataset": "lede.replay.reader",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lede")
    if name not in _HOME:
        raise AttributeError(f"module 'lede' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
