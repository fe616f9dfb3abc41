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
    walk, found = _Walk(config), type(model)
    walk.check("", model, next(iter(_parts())))
    for name, value in vars(model).items():  # its methods are what `generate` calls
        if name != "forward" and callable(value) and callable(getattr(found, name, None)):
            raise refused("", f"has another {name} than its class")
    return walk.weights


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

    attention: dict[str, type] = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), nn.Linear)
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


class _Walk:
    """Checks a module that should be of a kind, and all in it; their weights are in `weights` then."""

    def __init__(self, config: Config):
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        self.weights: dict[str, Tensor] = {}
        self._config, self._parts, self._plain = config, _parts(), set[tuple[type, type]]()
        self._attentions: Any = ALL_ATTENTION_FUNCTIONS
        self._attributes: dict[type, dict[str, Any]] = {kind: {} for kind in self._parts}
        for kind in {kind for parts in self._parts.values() for kind in parts.values()}:
            name = kind.__name__
            self._attributes[kind] = {"max_norm": None} if name == "Embedding" else {}
            self._attributes[kind] |= {"variance_epsilon": config.rms_norm_eps} if name == "LlamaRMSNorm" else {}
            self._attributes[kind] |= {"scaling": config.head_dim**-0.5} if name == "LlamaAttention" else {}

    def check(self, name: str, module: Any, kind: type) -> None:
        """See the class."""
        self._check_class(name, module, kind)
        state = module.__dict__
        if state["_forward_hooks"] or state["_forward_pre_hooks"] or "forward" in state:
            _check_calls(name, module)
        for attribute, value in self._attributes[kind].items():
            if (found := getattr(module, attribute)) != value:
                raise refused(name, f"has {attribute} {found}, where the model's config gives {value}")
        special = kind.__name__
        if special == "LlamaAttention":
            self._check_attention(name, module)
        if state["_buffers"] and special != "LlamaRotaryEmbedding":
            raise refused(name, f"has the buffers {', '.join(state['_buffers'])}")
        prefix = f"{name}." if name else ""
        held = {key: value for key, value in state["_parameters"].items() if value is not None}
        if [*held] != ["weight"] * (special in WEIGHED):
            raise refused(name, f"has the parameters {', '.join(held) or '(none)'}")
        for key, weight in held.items():
            _check_weight(f"{prefix}{key}", weight)
            self.weights[f"{prefix}{key}"] = weight
        wanted, children = self._parts.get(kind, {}), state["_modules"]
        if kind is nn.ModuleList:
            wanted = {str(i): wanted[""] for i in range(self._config.num_hidden_layers)}
        if children.keys() != wanted.keys():
            other = min(children.keys() ^ wanted.keys())
            raise refused(f"{prefix}{other}", "is missing" if other in wanted else "is no part of a plain Llama")
        for child, part in wanted.items():
            self.check(f"{prefix}{child}", children[child], part)

    def _check_class(self, name: str, module: Any, kind: type) -> None:
        found = type(module)
        if (found, kind) in self._plain:
            return
        if not isinstance(module, kind) or (found is not kind and _overridden(found, kind)) or not _own(found.forward):
            held = ", with a parametrization" if "parametrizations" in getattr(module, "_modules", ()) else ""
            raise refused(name, f"is a {found.__module__}.{found.__qualname__}{held}, and no plain {kind.__name__}")
        self._plain.add((found, kind))

    def _check_attention(self, name: str, module: Any) -> None:
        """Which layer's it is, which function computes it, and that nothing is dropped from it."""
        if str(module.layer_idx) != (place := name.split(".")[2]):
            raise refused(name, f"has layer_idx {module.layer_idx} in the place of {place}")
        function = module.config._attn_implementation
        if function != "eager" and not _own(self._attentions.get(function)):
            raise refused(name, f"computes by {function!r}, which is no attention function of the library")
        if module.training and module.attention_dropout:
            raise ModelError(f"{name} drops parts at random while the model is in training mode: call model.eval()")


def _check_calls(name: str, module: Any) -> None:
    """What is called with a module, or in its place."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        if added := [hook for hook in hooks.values() if getattr(hook, "__module__", "") != LOOKING]:
            raise refused(name, f"has the forward hook {getattr(added[0], '__qualname__', added[0])}")
    if "forward" in module.__dict__:
        forward = getattr(module.forward, "_torchdynamo_orig_callable", module.forward)  # of torch.compile: the same
        if getattr(forward, "__func__", None) is not type(module).forward or forward.__self__ is not module:
            raise refused(name, "has another forward than its class")


def _check_weight(name: str, weight: Tensor) -> None:
    """That a weight is numbers in memory."""
    dtype = weight.dtype
    if type(weight) not in (nn.Parameter, Tensor) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise refused(name, f"is quantised or sharded, a {type(weight).__name__} of {dtype}")
    if weight.is_meta:
        raise refused(name, "is not in memory (offloaded)")


def _own(function: Any) -> bool:
    """Whether a function is of torch or transformers."""
    return getattr(function, "__module__", "").startswith(LIBRARIES)


def _overridden(found: type, kind: type) -> bool:
    """Whether a subclass defines anew what can change what its instances compute."""
    names = {name for cls in found.__mro__[: found.__mro__.index(kind)] for name in vars(cls)} - HARMLESS
    return any(hasattr(kind, name) and getattr(found, name) is not getattr(kind, name) for name in names)
