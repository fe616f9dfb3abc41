"""Tiny random Llamas and a byte tokenizer, made in code: what tests of decoding, collecting and serving run on."""

import functools
from typing import Any

import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lede.decode.load import from_transformers
from lede.decode.model import Model

END = "<end>"  # end of text: the tokenizer's last token
# The same examples every time: in floating point a near tie could make a rare one differ for no fault of the code's.
FIXED = settings(derandomize=True, deadline=None, database=None)

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 61,
    "max_position_embeddings": 160,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one-key-head, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True, "vocab_size": 48},
    "full heads": {"num_attention_heads": 2, "num_hidden_layers": 3},
    "llama3": {"rope_parameters": LLAMA3},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    # sizes that native.c does not take
    "odd": {
        "hidden_size": 60,
        "intermediate_size": 70,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 20,
    },
}


def llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A random Llama whose greedy text varies, and whose early layers guess about half of it.

    The first layer mixes strongly; later ones only correct it, the less the deeper they are.
    """
    config = LlamaConfig(**SIZES | changes)
    random = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.copy_(1 + 0.2 * torch.randn(weight.shape, generator=random))
            continue
        gain = 1.0
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            number = int(name.split(".")[2])
            gain = 4.0 if number == 0 else 1.4 / number
        elif name.endswith(("q_proj.weight", "k_proj.weight")):
            gain = 1.5
        elif name.endswith(("lm_head.weight", "embed_tokens.weight")):
            gain = 2.5
        weight.copy_(torch.randn(weight.shape, generator=random) * gain / weight.shape[1] ** 0.5)
    return model


def with_zero_for(model: LlamaForCausalLM, token: int) -> LlamaForCausalLM:
    """The model with tokens 0 and `token` in each other's place."""
    for weight in (model.model.embed_tokens.weight, model.lm_head.weight):
        weight[[0, token]] = weight[[token, 0]]
    return model


@functools.cache
def variant(name: str, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """One of VARIANTS."""
    return llama(seed=1, **VARIANTS[name]).to(dtype)


@functools.cache
def ours(name: str, dtype: torch.dtype = torch.float32, native: bool = True) -> Model:
    """The decoder's model of one of VARIANTS."""
    return from_transformers(variant(name), dtype, native=native)


@functools.cache
def reference(name: str, prompt: tuple[int, ...], tokens: int, dtype: torch.dtype = torch.float32) -> tuple[int, ...]:
    """What `transformers` writes greedily, without any end of text."""
    return library_text(variant(name, dtype), prompt, max_new_tokens=tokens)


def library_text(model: LlamaForCausalLM, prompt: tuple[int, ...], **options: Any) -> tuple[int, ...]:
    """The new tokens of `transformers` generate(do_sample=False)."""
    inputs = torch.tensor([prompt])
    out = model.generate(inputs, attention_mask=torch.ones_like(inputs), do_sample=False, pad_token_id=0, **options)
    return tuple(out[0, len(prompt) :].tolist())


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and an end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({**{c: i for i, c in enumerate(alphabet)}, END: len(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, clean_up_tokenization_spaces=False)


def merges(words: str) -> list[tuple[str, str]]:
    """BPE's merges that build each word from its left."""
    return list(dict.fromkeys((word[:i], word[i]) for word in words.split() for i in range(1, len(word))))


@functools.cache
def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges, as Llama 3's; begins texts with <s>. One token ends inside a character."""
    pairs = merges("Ġthe Ġstopper Ġtop Ġat Ġa the stop top æĹ¥æ ðŁİ")
    tokens = ["<s>", END, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in pairs)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return with_begin(tokenizer)


@functools.cache
def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """▁ for spaces, and <0xNN> for the bytes of what is not in the vocabulary, as Llama 2's; begins texts with <s>."""
    pairs = merges("▁the ▁stopper ▁top ▁at ▁a stop")
    tokens = ["<unk>", "<s>", END, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁,abcdefghijklmnopqrstuvwxyz"]
    tokens += [a + b for a, b in pairs]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return with_begin(tokenizer)


def with_begin(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer that puts <s> before a text."""
    tokenizer.add_special_tokens([token for token in ("<unk>", "<s>", END) if tokenizer.token_to_id(token) is not None])
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", begin)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token=END)


def byte_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A Llama for `byte_tokenizer`."""
    size = len(byte_tokenizer())
    return llama(seed, **{"vocab_size": size, "max_position_embeddings": 256, "eos_token_id": size - 1} | changes)
