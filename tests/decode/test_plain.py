"""A model object of transformers: what is not the library's own or not as it was made is refused by its name."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules import module as everywhere
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm
from transformers import LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lede.decode.backends import checksum
from lede.decode.backends.checksum import checksums
from lede.decode.errors import ModelError
from lede.decode.generate import generate
from lede.decode.load import from_transformers, load_model
from lede.decode.sampling import Settings
from tests.models import byte_llama, library_text, llama

LAYER = "model.layers.2"


class Adapter(nn.Module):
    """As LoRA wraps a layer: the base, and a low-rank product beside it."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


class LinearAdapter(nn.Linear):
    """One that says that it is a Linear, with the base's weight under its name."""

    def __init__(self, base: nn.Linear):
        super().__init__(base.in_features, base.out_features, bias=False)
        self.weight = base.weight

    def forward(self, x):
        return 2 * super().forward(x)


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight):
        return 2 * weight


class NamedLinear(nn.Linear):
    """A Linear that computes as one."""

    def extra_repr(self):
        return "mine"


class Mine(LlamaForCausalLM):
    """A model with more to it, and nothing else than the library's."""

    def loss_of(self, x):
        return self(x, labels=x).loss


class Other(LlamaForCausalLM):
    """A model that computes otherwise."""

    def prepare_inputs_for_generation(self, *given, **named):
        return super().prepare_inputs_for_generation(*given, **named)


def part(model, name):
    return model.get_submodule(name)


def put(model, name, module):
    model.set_submodule(name, module)


def hook(module, *given):
    return None


def attribute(name, key, value):
    return lambda model: setattr(part(model, name), key, value)


def forward_of(module):
    return lambda *given, **named: type(module).forward(module, *given, **named)


CHANGES = {
    "adapter on lm_head": (lambda m: put(m, "lm_head", Adapter(m.lm_head)), "lm_head is a .*Adapter"),
    "adapter in a layer": (
        lambda m: put(m, f"{LAYER}.self_attn.q_proj", Adapter(part(m, f"{LAYER}.self_attn.q_proj"))),
        rf"{LAYER}\.self_attn\.q_proj is a .*Adapter",
    ),
    "adapter that is a Linear": (lambda m: put(m, "lm_head", LinearAdapter(m.lm_head)), "lm_head is a .*LinearAdapter"),
    "parametrization": (
        lambda m: parametrize.register_parametrization(part(m, f"{LAYER}.mlp.up_proj"), "weight", Doubled()),
        rf"{LAYER}\.mlp\.up_proj .*parametrization",
    ),
    "weight norm": (lambda m: weight_norm(m.lm_head), "lm_head .*parametrization"),
    "pruning": (
        lambda m: prune.random_unstructured(part(m, f"{LAYER}.mlp.up_proj"), "weight", 0.5),
        rf"{LAYER}\.mlp\.up_proj has the forward hook",
    ),
    "hook on the model": (lambda m: m.register_forward_hook(hook), "the model has the forward hook hook"),
    "hook before the model": (lambda m: m.register_forward_pre_hook(hook), "the model has the forward hook hook"),
    "hook on a layer": (lambda m: part(m, LAYER).register_forward_hook(hook), f"{LAYER} has the forward hook hook"),
    "hook before a norm": (
        lambda m: part(m, "model.norm").register_forward_pre_hook(hook, with_kwargs=True),
        "model.norm has the forward hook hook",
    ),
    "hook in an activation": (
        lambda m: part(m, f"{LAYER}.mlp.act_fn").register_forward_hook(hook),
        f"{LAYER}.mlp.act_fn has the forward hook",
    ),
    "another forward": (
        lambda m: setattr(part(m, LAYER), "forward", forward_of(part(m, LAYER))),
        f"{LAYER} has another forward",
    ),
    "another method": (
        lambda m: setattr(m, "prepare_inputs_for_generation", lambda *given, **named: {}),
        "the model has another prepare_inputs_for_generation",
    ),
    "another class of model": (lambda m: setattr(m, "__class__", Other), "the model is a .*Other"),
    "8-bit integers": (
        lambda m: setattr(m.lm_head, "weight", nn.Parameter(m.lm_head.weight.to(torch.int8), requires_grad=False)),
        r"lm_head\.weight is quantised .* of torch\.int8",
    ),
    "8-bit floats": (
        lambda m: setattr(m.lm_head, "weight", nn.Parameter(m.lm_head.weight.to(torch.float8_e4m3fn))),
        r"lm_head\.weight is quantised .* of torch\.float8",
    ),
    "on no device": (lambda m: part(m, LAYER).to("meta"), r"in memory"),
    "a bias": (lambda m: put(m, "lm_head", nn.Linear(64, 61)), "lm_head has the parameters weight, bias"),
    "a renormalised embedding": (attribute("model.embed_tokens", "max_norm", 1.0), "embed_tokens has max_norm 1.0"),
    "another epsilon": (attribute("model.norm", "variance_epsilon", 0.1), "model.norm has variance_epsilon 0.1"),
    "another scale": (attribute(f"{LAYER}.self_attn", "scaling", 1.0), "self_attn has scaling 1.0"),
    "layers in another order": (
        lambda m: put(m, "model.layers", nn.ModuleList([m.model.layers[i] for i in (0, 2, 1, 3)])),
        "layers.1.self_attn has layer_idx 2",
    ),
    "fewer layers": (lambda m: m.model.layers.__delitem__(3), "model.layers.3 is missing"),
    "one more module": (lambda m: m.add_module("value", nn.Linear(64, 1)), "value is no part of a plain Llama"),
    "another norm": (lambda m: put(m, "model.norm", nn.RMSNorm(64)), "model.norm is a .*RMSNorm"),
    "another activation": (lambda m: put(m, f"{LAYER}.mlp.act_fn", nn.GELU()), "act_fn is a .*GELU"),
    "other frequencies": (lambda m: m.model.rotary_emb.inv_freq.mul_(0.5), "rotary_emb has other frequencies"),
    "rounded frequencies": (lambda m: m.bfloat16().float(), "rotary_emb has other frequencies"),
    "another vocabulary": (lambda m: put(m, "lm_head", nn.Linear(64, 50, bias=False)), r"lm_head\.weight .*\(50, 64\)"),
    "dropout": (
        lambda m: [setattr(layer.self_attn, "attention_dropout", 0.1) for layer in m.train().model.layers],
        r"self_attn drops parts at random .*model\.eval\(\)",
    ),
    "attention by another function": (
        lambda m: (ALL_ATTENTION_FUNCTIONS.register("mine", hook), setattr(m.config, "_attn_implementation", "mine")),
        "self_attn computes by 'mine'",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_plain_is_refused_by_its_name(change):
    model, (put_in, named) = llama(), CHANGES[change]
    put_in(model)
    with pytest.raises(ModelError, match=named) as caught:
        from_transformers(model, torch.float32)
    assert "\n" not in str(caught.value)


def test_a_quantised_model_is_refused():
    model = torch.ao.quantization.quantize_dynamic(llama(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ModelError, match=r"lm_head is a torch\.ao\..*Linear|q_proj is a torch\.ao\..*Linear"):
        from_transformers(model, torch.float32)


@pytest.mark.parametrize(
    "register", [everywhere.register_module_forward_hook, everywhere.register_module_forward_pre_hook]
)
def test_hooks_on_all_modules_are_refused_while_they_are_there(register):
    handle = register(hook)
    try:
        with pytest.raises(ModelError, match="every module has a forward hook"):
            from_transformers(llama(), torch.float32)
    finally:
        handle.remove()
    assert from_transformers(llama(), torch.float32)


def test_what_computes_the_same_is_taken():
    prompt = (3, 5, 7)
    model = llama()
    expected = library_text(model, prompt, max_new_tokens=12)
    model.__class__ = Mine
    model.lm_head.__class__ = NamedLinear
    model.model.norm.__class__ = type("Norm", (type(model.model.norm),), {"__doc__": "mine"})
    model(torch.tensor([prompt]), output_hidden_states=True)  # leaves the library's own hooks in it
    assert any(module._forward_hooks for module in model.modules())
    model.forward = torch.compile(model.forward)
    model.register_full_backward_hook(hook)
    handle = model.lm_head.register_forward_hook(hook)
    handle.remove()
    for plain in (model, copy.deepcopy(llama()).train(), llama().double().float()):
        assert generate(from_transformers(plain, torch.float32), prompt, None, Settings(12)).token_ids == expected


def test_a_model_object_is_no_name_of_one():
    with pytest.raises(ModelError, match=r"not a LlamaForCausalLM: .*from_transformers"):
        load_model(llama())


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_change_of_a_weight_changes_its_checksum(dtype, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(checksum, "_compiled", lambda: None)
    elif checksum._compiled() is None:
        pytest.skip("no C compiler")
    random = torch.Generator().manual_seed(0)
    for shape in ((48, 96), (5, 7), (130,), (3,), (1, 1)):
        weight = torch.randn(shape, generator=random).to(dtype)
        before = checksums([weight, weight])
        changes = [weight.flip(-1), -weight, weight + 1, weight.roll(1, 0), torch.zeros_like(weight)]
        for place in range(0, weight.numel(), 7):
            one = weight.clone()
            one.view(-1)[place] *= -1
            changes.append(one)
        for changed in changes:
            if not torch.equal(changed, weight):
                assert checksums([weight, changed]) != before != checksums([changed, weight])
        assert checksums([weight.clone(), weight.t().contiguous().t()]) == before


def test_checksums_are_the_same_by_any_number_of_threads(monkeypatch):
    weights = list(byte_llama().parameters())
    before, threads = checksums(weights), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 2)
        assert checksums(weights) == before
    finally:
        torch.set_num_threads(threads)
