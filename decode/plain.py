"""The weights of a Llama that `transformers` holds in memory, where it computes just what they and its config say.

The decoder takes weights and nothing else. What is put into or around a model (an adapter, a hook, a quantised layer)
changes what it writes: it is refused here by its name, and never left out. docs/transformers.md says what this costs.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere

from lede.decode.backends.rotary import frequencies
from lede.decode.config import Config
from lede.decode.errors import ModelError

WEIGHED = ("Linear", "Embedding", "LlamaRMSNorm")  # classes of what has a weight
LIBRARIES = ("torch.nn.", "transformers.")
# Hooks that `transformers` leaves in a model once it was asked for hidden states or attentions: they only look.
LOOKING = "transformers.utils.output_capturing"
# What a subclass may define anew and still compute the same.
HARMLESS = {"__annotations__", "__dict__", "__doc__", "__firstlineno__", "__init__", "__module__", "__orig_bases__"}
HARMLESS |= {"__parameters__", "__qualname__", "__repr__", "__static_attributes__", "__weakref__", "extra_repr"}


def plain_weights(model: Any, config: Config) -> dict[str, Tensor]:
    """{name in a checkpoint: weight} of a `LlamaForCausalLM` of this config.

    Raises ModelError, with the name of what is not the library's own or not as it was made: a module, its `forward`, a
    hook, an attribute, a weight.
    """
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        raise refused("every module", "has a forward hook (torch.nn.modules.module.register_module_forward_hook)")
    weights: dict[str, Tensor] = {}
    _collect(weights, "", model, next(iter(_parts())), config)
    return weights


def refused(name: str, fault: str) -> ModelError:
    """The error for a part of a model, or for the model where it has no name."""
    return ModelError(
        f"{name or 'the model'} {fault}: only plain Llamas of transformers are decoded here, so merge what was added "
        "into the weights (an adapter's merge_and_unload() does) or take it off"
    )


def rotary_buffer(model: Any) -> Tensor:
    """The rotary frequencies that a plain model was made with."""
    rotary = model.model.rotary_emb  # those of dynamic kinds go with the text
    buffer: Tensor = rotary.original_inv_freq if rotary.rope_type in ("dynamic", "longrope") else rotary.inv_freq
    return buffer


def check_rotary(model: Any, config: Config) -> None:
    """Raise ModelError where a plain model's rotary frequencies are not those of its config, up to its own dtype."""
    wanted, scale = frequencies(config)
    buffer = rotary_buffer(model)
    given = buffer.detach().cpu()
    same = given.shape == wanted.shape and torch.allclose(given.double(), wanted.to(given.dtype).double(), 1e-6, 0)
    if not same or model.model.rotary_emb.attention_scaling != scale:
        raise ModelError(
            "model.rotary_emb has other frequencies than the config gives (changed, or rounded when the model was "
            "converted to half precision and back): load the checkpoint again, in the dtype that it should have"
        )


@functools.cache
def _parts() -> dict[type, dict[str, type]]:
    """{class: the names and classes of what it is made of}, the whole model first; a list's items are named ""."""
    from transformers.activations import ACT2FN
    from transformers.models.llama import modeling_llama as llama

    attention = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), nn.Linear)
    feed_forward = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), nn.Linear)
    norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), llama.LlamaRMSNorm)
    inner = {"embed_tokens": nn.Embedding, "layers": nn.ModuleList, "norm": llama.LlamaRMSNorm}
    return {
        llama.LlamaForCausalLM: {"model": llama.LlamaModel, "lm_head": nn.Linear},
        llama.LlamaModel: inner | {"rotary_emb": llama.LlamaRotaryEmbedding},
        nn.ModuleList: {"": llama.LlamaDecoderLayer},
        llama.LlamaDecoderLayer: {"self_attn": llama.LlamaAttention, "mlp": llama.LlamaMLP} | norms,
        llama.LlamaAttention: attention,
        llama.LlamaMLP: feed_forward | {"act_fn": type(ACT2FN["silu"])},
    }


def _collect(weights: dict[str, Tensor], name: str, module: Any, kind: type, config: Config) -> None:
    """Check a module that should be of a kind, and all in it; add their weights."""
    _check_module(name, module, kind)
    _check_attributes(name, module, kind.__name__, config)
    wanted, children, prefix = _parts().get(kind, {}), module._modules, f"{name}." if name else ""
    if kind is nn.ModuleList:
        wanted = {str(i): wanted[""] for i in range(config.num_hidden_layers)}
    if children.keys() != wanted.keys():
        other = min(children.keys() ^ wanted.keys())
        raise refused(f"{prefix}{other}", "is missing" if other in wanted else "is no part of a plain Llama")
    for child, part in wanted.items():
        _collect(weights, f"{prefix}{child}", children[child], part, config)
    held = {key: value for key, value in module._parameters.items() if value is not None}
    if [*held] != ["weight"] * (kind.__name__ in WEIGHED):
        raise refused(name, f"has the parameters {', '.join(held) or '(none)'}")
    for weight in held.values():
        dtype = weight.dtype
        if type(weight) not in (nn.Parameter, Tensor) or not dtype.is_floating_point or dtype.itemsize < 2:
            raise refused(f"{prefix}weight", f"is quantised or sharded, a {type(weight).__name__} of {dtype}")
        if weight.is_meta:
            raise refused(f"{prefix}weight", "is not in memory (offloaded)")
        weights[f"{prefix}weight"] = weight


def _check_module(name: str, module: Any, kind: type) -> None:
    """The class, and what can be hung on any module."""
    found = type(module)
    if not isinstance(module, kind) or (found is not kind and _overridden(found, kind)) or not _own(found.forward):
        held = ", with a parametrization" if "parametrizations" in getattr(module, "_modules", ()) else ""
        raise refused(name, f"is a {found.__module__}.{found.__qualname__}{held}, and no plain {kind.__name__}")
    state = module.__dict__
    for hooks in (state["_forward_pre_hooks"], state["_forward_hooks"]):
        if added := [hook for hook in hooks.values() if getattr(hook, "__module__", "") != LOOKING]:
            raise refused(name, f"has the forward hook {getattr(added[0], '__qualname__', added[0])}")
    if "forward" in state:
        forward = getattr(
            state["forward"], "_torchdynamo_orig_callable", state["forward"]
        )  # torch.compile's is the same
        if getattr(forward, "__func__", None) is not found.forward or forward.__self__ is not module:
            raise refused(name, "has another forward than its class")
    if kind is next(iter(_parts())):  # its methods are what `generate` calls
        changed = [key for key, value in state.items() if callable(value) and callable(getattr(found, key, None))]
        if others := set(changed) - {"forward"}:
            raise refused(name, f"has another {min(others)} than its class")


def _check_attributes(name: str, module: Any, kind: str, config: Config) -> None:
    """What a module computes with beside its weights: the config's numbers when it is made."""
    wanted: dict[str, Any] = {}
    if kind == "LlamaRMSNorm":
        wanted = {"variance_epsilon": config.rms_norm_eps}
    elif kind == "Embedding":
        wanted = {"max_norm": None}
    elif kind == "LlamaAttention":
        wanted = {"layer_idx": int(name.split(".")[2]), "scaling": config.head_dim**-0.5}
        _check_attention(name, module)
    for attribute, value in wanted.items():
        if getattr(module, attribute) != value:
            raise refused(name, f"has {attribute} {getattr(module, attribute)}, where the model's config gives {value}")
    if module._buffers and kind != "LlamaRotaryEmbedding":
        raise refused(name, f"has the buffers {', '.join(module._buffers)}")


def _check_attention(name: str, module: Any) -> None:
    """Which function computes attention, and that nothing is dropped from it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    functions: Any = ALL_ATTENTION_FUNCTIONS
    function = module.config._attn_implementation
    if function != "eager" and not _own(functions.get(function)):
        raise refused(name, f"computes by {function!r}, which is no attention function of the library")
    if module.training and module.attention_dropout:
        raise ModelError(f"{name} drops parts at random while the model is in training mode: call model.eval()")


def _own(function: Any) -> bool:
    """Whether a function is of torch or transformers."""
    return getattr(function, "__module__", "").startswith(LIBRARIES)


def _overridden(found: type, kind: type) -> bool:
    """Whether a subclass defines anew what can change what its instances compute."""
    names = {name for cls in found.__mro__[: found.__mro__.index(kind)] for name in vars(cls)} - HARMLESS
    return any(hasattr(kind, name) and getattr(found, name) is not getattr(kind, name) for name in names)
