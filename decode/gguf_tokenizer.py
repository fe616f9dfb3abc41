"""The tokenizer in a GGUF file's metadata, as a tokenizer.json and its settings.

Such a file names how a text is split before merges apply (`tokenizer.ggml.pre`) and does not say it, so only names
whose split is known here for certain are taken; others are refused.
"""

import json
from pathlib import Path
from typing import Any

from lede.decode.errors import ModelError

PREFIX = "tokenizer.ggml."
# What Llama 3's words are: contractions, letters, up to three digits, signs, spaces.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# {tokenizer.ggml.pre of byte-level BPE: the kind of split}.
SPLITS = {"gpt-2": "gpt-2"} | dict.fromkeys(("smollm", "starcoder"), "digits")
SPLITS |= dict.fromkeys(("llama-bpe", "llama-v3", "llama3"), "llama-3")
# Where Llama 3 ends a turn; files of its chat models name the first alone, their checkpoints all that they have.
LLAMA3_ENDS = ("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>")
UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6  # types of tokens
NAMED = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # special tokens: {in settings: in files}
ENDS = ("eos", "eot", "eom")
# Keys that are applied, or of no concern to the text of a Llama.
KNOWN = {f"{PREFIX}{name}" for name in ("model", "pre", "tokens", "token_type", "scores", "merges", "add_space_prefix")}
KNOWN |= {f"{PREFIX}add_{name}_token" for name in ("bos", "eos")} | {"tokenizer.chat_template"}
KNOWN |= {f"{PREFIX}{name}_token_id" for name in (*NAMED.values(), *ENDS, "seperator", "separator", "cls", "mask")}
KNOWN |= {f"{PREFIX}{name}_token_id" for name in ("prefix", "suffix", "middle")}
KNOWN |= {f"{PREFIX}fim_{name}_token_id" for name in ("pre", "suf", "mid", "pad", "rep", "sep")}
KNOWN |= {f"{PREFIX}token_type_count", "tokenizer.chat_templates", "tokenizer.huggingface.json"}
ONLY = {f"{PREFIX}add_sep_token": False, f"{PREFIX}remove_extra_whitespaces": False}


def known_keys(keys: dict[str, Any]) -> set[str]:
    """Those of a file's keys that the tokenizer here honours."""
    templates = {key for key in keys if key.startswith("tokenizer.chat_template.")}
    return KNOWN | templates | {key for key, value in ONLY.items() if keys.get(key) == value}


def checked(name: str, keys: dict[str, Any]) -> dict[str, Any] | None:
    """The metadata less `PREFIX`, complete; None where there is no tokenizer. Raises ModelError for unknown kinds.

    Neither torch nor a tokenizer library is imported.
    """
    given = {key.removeprefix(PREFIX): value for key, value in keys.items() if key.startswith(PREFIX)}
    kind = given.get("model", "none")
    if kind in ("none", "no_vocab"):
        return None
    if kind not in ("gpt2", "llama"):
        raise ModelError(f"{name} has a tokenizer of the kind {kind!r}: known are 'gpt2' and 'llama'")
    tokens, split = given.get("tokens") or [], given.get("pre")
    if len(set(tokens)) != len(tokens) or not tokens:
        raise ModelError(f"{name} has no tokens, or one of them twice, in {PREFIX}tokens")
    if kind == "gpt2" and split not in SPLITS:
        said = f"splits text as {split!r}" if split else "does not say how text is split"
        raise ModelError(
            f"{name} {said} ({PREFIX}pre), and known are {', '.join(SPLITS)}: take the model's safetensors"
        )
    if kind == "llama" and split not in (None, "default"):
        raise ModelError(f"{name} splits text as {split!r} ({PREFIX}pre), which is unknown with the kind 'llama'")
    if kind == "gpt2" and (given.get("add_space_prefix") or "merges" not in given):
        raise ModelError(f"{name} has {PREFIX}add_space_prefix or lacks {PREFIX}merges: unknown with the kind 'gpt2'")
    scores = given.get("scores") or []
    if kind == "llama" and "merges" not in given and (len(scores) != len(tokens) or len(set(scores)) < 2):
        raise ModelError(f"{name} has no {PREFIX}scores that say in which order its tokens are joined")
    types = given.setdefault("token_type", [])
    if len(types) not in (0, len(tokens)):
        raise ModelError(f"{name} has {len(types)} {PREFIX}token_type for {len(tokens)} tokens")
    ids = {key: value for key, value in given.items() if key.endswith("_token_id")}
    for key, token in ids.items():
        if not 0 <= token < len(tokens):
            raise ModelError(f"{name} has {PREFIX}{key} {token}, and {len(tokens)} tokens")
    # what llama.cpp takes for granted
    begins = kind == "llama" or SPLITS[str(split)] == "llama-3"
    given["add_bos_token"], given["add_eos_token"] = (
        given.get("add_bos_token", begins),
        given.get("add_eos_token", False),
    )
    needed = ["eos"] + ["bos"] * given["add_bos_token"]
    if missing := [key for key in needed if f"{key}_token_id" not in ids]:
        raise ModelError(f"{name} does not name its {missing[0]} token ({PREFIX}{missing[0]}_token_id)")
    return given


def end_tokens(given: dict[str, Any]) -> list[int]:
    """The tokens that end a text or a turn."""
    ends = [given[f"{key}_token_id"] for key in ENDS if f"{key}_token_id" in given]
    tokens = given["tokens"]
    if SPLITS.get(given.get("pre", "")) == "llama-3" and tokens[given["eos_token_id"]] == LLAMA3_ENDS[0]:
        ends += [tokens.index(token) for token in LLAMA3_ENDS if token in tokens]
    return sorted(set(ends))


def write_tokenizer(folder: Path, given: dict[str, Any], keys: dict[str, Any]) -> None:
    """Write tokenizer.json and tokenizer_config.json for what `checked` gave of a file's `keys`."""
    backend = (sentencepiece if given["model"] == "llama" else byte_level)(given)
    add_special_tokens(backend, given)
    backend.save(str(folder / "tokenizer.json"))
    tokens = given["tokens"]
    ids = {name: given.get(f"{theirs}_token_id") for name, theirs in NAMED.items()}
    settings: dict[str, Any] = {f"{name}_token": tokens[token] for name, token in ids.items() if token is not None}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    template, prefix = keys.get("tokenizer.chat_template"), "tokenizer.chat_template."
    named = {key.removeprefix(prefix): text for key, text in keys.items() if key.startswith(prefix)}
    if named:
        named |= {"default": template} if template else {}
        settings["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
    elif template:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def byte_level(given: dict[str, Any]) -> Any:
    """Byte-level BPE, as GPT-2's, SmolLM2's or Llama 3's."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    split, byte = SPLITS[given["pre"]], pre_tokenizers.ByteLevel
    merges = [tuple(merge.split(" ")) for merge in given["merges"]]
    model = models.BPE(numbered(given), merges, ignore_merges=split == "llama-3")  # there words in the vocabulary stay
    backend = Tokenizer(model)
    if split == "llama-3":
        words = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, byte(add_prefix_space=False, use_regex=False)])
    elif split == "digits":
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte(add_prefix_space=False)])
    else:
        backend.pre_tokenizer = byte(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def sentencepiece(given: dict[str, Any]) -> Any:
    """BPE over text with ▁ for spaces, and bytes for what the vocabulary lacks, as Llama 2's."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    merges = given.get("merges")
    pairs = scored_merges(given) if merges is None else [tuple(merge.split(" ")) for merge in merges]
    unknown = given["tokens"][given["unknown_token_id"]] if "unknown_token_id" in given else None
    backend = Tokenizer(
        models.BPE(numbered(given), pairs, unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in given["token_type"])
    )
    begins = given.get("add_space_prefix", True)
    spaces = [normalizers.Replace(" ", "▁")]
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *spaces] if begins else spaces)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if begins else steps)
    return backend


def scored_merges(given: dict[str, Any]) -> list[tuple[str, str]]:
    """The merges that a vocabulary with scores implies: the better a token, the sooner its parts are joined."""
    types = given["token_type"] or [1] * len(given["tokens"])
    apart = {token for token, kind in zip(given["tokens"], types, strict=True) if kind in (UNKNOWN, CONTROL, BYTE)}
    ids = {token: i for token, i in numbered(given).items() if token not in apart}
    merges: list[tuple[float, str, str]] = []
    for token, i in ids.items():
        halves = ((token[:at], token[at:]) for at in range(1, len(token)))
        merges += [(given["scores"][i], left, right) for left, right in halves if left in ids and right in ids]
    merges.sort(key=lambda merge: (-merge[0], -len(merge[1]), ids[merge[1]], ids[merge[2]]))
    return [(left, right) for _, left, right in merges]


def add_special_tokens(backend: Any, given: dict[str, Any]) -> None:
    """Keep whole the tokens that are never made by merges, and put those around a text that its model wants there."""
    from tokenizers import AddedToken, processors

    tokens = given["tokens"]
    types = given["token_type"] or [1] * len(tokens)
    named = {given.get(f"{name}_token_id") for name in (*NAMED.values(), *ENDS)}
    for i, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        special = kind in (UNKNOWN, CONTROL) or i in named
        if special or kind == USER_DEFINED:
            backend.add_tokens([AddedToken(token, normalized=False, special=special)])
    around = {name: tokens[given[f"{name}_token_id"]] for name in ("bos", "eos") if given[f"add_{name}_token"]}
    if around:
        ids = [(token, given[f"{name}_token_id"]) for name, token in around.items()]
        first, last = ([around[name]] if name in around else [] for name in ("bos", "eos"))
        pair = [f"{token}:1" for token in (*first, "$B", *last)]
        backend.post_processor = processors.TemplateProcessing([*first, "$A", *last], [*first, "$A", *last, *pair], ids)


def numbered(given: dict[str, Any]) -> dict[str, int]:
    """Ids by token."""
    return {token: i for i, token in enumerate(given["tokens"])}
