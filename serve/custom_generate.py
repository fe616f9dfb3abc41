"""`generate` of `transformers`, decoded here: what the folder written by `lede export --to transformers` calls."""

import base64
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lede.decode.backends.checksum import checksums
from lede.decode.config import llama_config
from lede.decode.errors import ModelError
from lede.decode.exits import load_exits
from lede.decode.generate import encode
from lede.decode.generate import generate as decode
from lede.decode.generation_config import request
from lede.decode.load import from_transformers
from lede.decode.model import Model
from lede.decode.plain import plain_weights, rotary_buffer
from lede.decode.round import Round
from lede.policy import FACTS, WEIGHTS, Policy, load_policy
from lede.serve.generate import policy_rule

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel
    from transformers.generation.utils import GenerateDecoderOnlyOutput

OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
CALL = '''\
"""`generate` with drafts by early layers: model.generate(**inputs, custom_generate=…, trust_remote_code=True)."""

import lede.serve.custom_generate

POLICY = {policy}


def generate(model, policy=POLICY, **kwargs):
    """As `model.generate`. policy: a folder, a lede.Policy, None for plain decoding; exits: a folder of exit heads."""
    return lede.serve.custom_generate.generate(model, policy=policy, **kwargs)
'''
CARD = """\
---
library_name: transformers
tags: [custom_generate]
---

`generate` for {model}, sooner: early layers draft, the whole model verifies.

```python
model.generate(**inputs, custom_generate="this folder, or its name on the hub", trust_remote_code=True)
```

The result is `generate`'s. `policy=` names another exit policy (a folder), None does without; `exits=` a folder of exit
heads, where the policy was learned with some.
"""

_decoders: "WeakKeyDictionary[PreTrainedModel, tuple[Any, Model]]" = WeakKeyDictionary()


def export(out: Path, policy: Policy | None, model: str) -> None:
    """Write a folder for `custom_generate`, with a policy for the model of this name in it."""
    content = None
    if policy is not None:
        with tempfile.TemporaryDirectory() as folder:
            policy.save(folder)
            content = {name: base64.b64encode(Path(folder, name).read_bytes()).decode() for name in (FACTS, WEIGHTS)}
    (out / "custom_generate").mkdir(parents=True, exist_ok=True)
    for name, text in {
        "custom_generate/generate.py": CALL.format(policy=repr(content)),
        "custom_generate/requirements.txt": "lede\n",
        "README.md": CARD.format(model=model),
    }.items():
        (out / name).write_text(text, encoding="utf-8")


def generate(
    model: "PreTrainedModel",
    inputs: Any = None,
    generation_config: "GenerationConfig | None" = None,
    stopping_criteria: Any = None,
    streamer: Any = None,
    logits_processor: Any = None,
    *,
    policy: Policy | str | Path | Mapping[str, str] | None = None,
    exits: str | Path | None = None,
    tokenizer: Any = None,
    **others: Any,
) -> "Tensor | GenerateDecoderOnlyOutput":
    """What `model.generate` of the same arguments returns, for one text; samples are of the same distribution.

    policy: also its files in base64, by their names. Raises PolicyError for one of another model, and ModelError for
    what cannot be done exactly, by name.
    """
    from transformers import GenerationConfig, StoppingCriteriaList
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    own: Any = model
    configs = [config for config in (generation_config, own.generation_config) if config is not None]
    long = any(length is not None for length in (others.get("max_length"), *(c.max_length for c in configs)))
    asked, rest = own._prepare_generation_config(generation_config, **others)
    input_ids, name, rest = own._prepare_model_inputs(inputs, asked.bos_token_id, rest)
    mask = rest.pop("attention_mask", None)
    refused = [option for option in OUTPUTS if asked.return_dict_in_generate and getattr(asked, option)]
    refused += [option for option, value in rest.items() if value is not None and value is not False]
    if refused or name != "input_ids":
        raise ModelError(f"{', '.join(refused) or name}: not supported where lede decodes: leave it out")
    if asked.stop_strings and tokenizer is None:
        raise ModelError("stop_strings need the tokenizer: give tokenizer=… too, as to generate")
    policy = unpacked(policy) if isinstance(policy, Mapping) else policy
    policy = load_policy(policy) if isinstance(policy, str | Path) else policy
    decoder = decoder_of(model, policy, exits)
    decoder.tokenizer = tokenizer
    ids = encode(decoder, {"input_ids": input_ids, "attention_mask": [] if mask is None else mask})
    most = asked.max_new_tokens
    if most is None:
        most = asked.max_length - (len(ids) if long else 0)
    options = {option: getattr(asked, option, None) for option in vars(GenerationConfig()) if option != "max_length"}
    settings = request(decoder, len(ids), options | {"max_new_tokens": most}, None, logits_processor or None)
    if stopping_criteria:
        criteria = StoppingCriteriaList(stopping_criteria)
        settings = replace(settings, ended=lambda text: bool(criteria(input_ids.new_tensor([text]), None)))

    def stream(round_: Round) -> None:
        for token in round_.committed:
            streamer.put(torch.tensor([token]))

    if streamer is not None:
        streamer.put(input_ids.cpu())
    done = decode(decoder, ids, policy_rule(decoder, policy), settings, stream if streamer is not None else None)
    if streamer is not None:
        streamer.end()
    sequences: Any = torch.cat((input_ids, input_ids.new_tensor([done.token_ids])), 1)
    return GenerateDecoderOnlyOutput(sequences=sequences) if asked.return_dict_in_generate else sequences


def unpacked(files: Mapping[str, str]) -> Policy:
    """The policy in an exported folder's code."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (FACTS, WEIGHTS):
            Path(folder, name).write_bytes(base64.b64decode(files[name]))
        return load_policy(folder)


def decoder_of(model: "PreTrainedModel", policy: Policy | None, exits: str | Path | None) -> Model:
    """The decoder over a model's weights: made once, and again when they, the config or what drafts have changed.

    Raises ModelError for a model with anything put into it or around it, by the name of that.
    """
    name = model.name_or_path or "model"
    config = llama_config(name, model.config.to_dict())
    weights = plain_weights(model, config)
    places, dtypes = ({getattr(weight, of) for weight in weights.values()} for of in ("device", "dtype"))
    for kind, there in (("devices", places), ("dtypes", dtypes)):
        if len(there) > 1:
            named = ", ".join(sorted(map(str, there)))
            raise ModelError(f"the model's weights are of several {kind} ({named}): put all on one")
    drafted = None if policy is None else policy.draft_vocabulary or ()
    sums = checksums([*{id(weight): weight for weight in weights.values()}.values(), rotary_buffer(model)])
    key = sums, config, *places, *dtypes, exits and str(exits), drafted
    if model not in _decoders or _decoders[model][0] != key:
        heads = load_exits(exits) if exits is not None else None
        made = from_transformers(model, model.dtype, model.device, None, name, True, heads, drafted)
        _decoders[model] = key, made
    return _decoders[model][1]
