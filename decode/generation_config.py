"""What a checkpoint's `generation_config.json` and a caller's options over it ask for, as the decoder's settings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lede.decode.config import token_ids
from lede.decode.errors import ModelError
from lede.decode.model import Model
from lede.decode.sampling import COMPILED, WITHOUT_PROCESSOR, Settings

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

# Names that cannot be honoured exactly, with the value that turns each off.
UNSUPPORTED: dict[str, Any] = dict.fromkeys(["dola_layers", "constraints", "force_words_ids", "max_time"])
UNSUPPORTED |= {"num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "penalty_alpha": 0}
UNSUPPORTED |= {"guidance_scale": 1, "token_healing": False}
USUAL_TOKENS = 128  # new tokens where nobody says how many


def request(
    model: Model,
    prompt_length: int,
    given: Mapping[str, Any],
    seed: int | None = None,
    logits_processor: "LogitsProcessorList | None" = None,
) -> Settings:
    """Settings for what a caller asks, by names of a GenerationConfig; the rest is as the model's config has it.

    Raises ModelError for what is unknown or cannot be honoured.
    """
    check_known(given)
    asked: dict[str, Any] = {name: v for name, v in {**model.generation_config, **given}.items() if v is not None}
    check_supported(asked)
    try:
        if "temperature" in given and "do_sample" not in given:
            asked["do_sample"] = asked["temperature"] != 0
        most = asked.get("max_new_tokens", asked.get("max_length", prompt_length + USUAL_TOKENS) - prompt_length)
        if most < 1 and "max_new_tokens" not in asked:
            limit = asked["max_length"]
            raise ModelError(
                f"the prompt has {prompt_length} tokens, and max_length, of the generation config, is {limit}: "
                "give max_new_tokens"
            )
        strings = asked.get("stop_strings", ())
        return Settings(
            max_new_tokens=most,
            temperature=asked.get("temperature", 1.0) if asked.get("do_sample") else 0.0,
            top_k=asked.get("top_k"),
            top_p=asked.get("top_p"),
            seed=seed,
            stop_strings=(strings,) if isinstance(strings, str) else tuple(strings),
            stop_tokens=token_ids(given["eos_token_id"]) if "eos_token_id" in given else None,
            logits_processor=logits_processor,
            options=asked,
        )
    except TypeError as error:
        raise ModelError(f"a generation option is of the wrong type: {error}") from None


def check_known(given: Mapping[str, Any]) -> None:
    """Raise ModelError for a name that no GenerationConfig has."""
    if set(given) <= WITHOUT_PROCESSOR | COMPILED:
        return
    from transformers import GenerationConfig

    for name in sorted(set(given) - set(vars(GenerationConfig()))):
        raise ModelError(f"unknown generation option {name!r}: give a name of transformers.GenerationConfig")


def check_supported(asked: Mapping[str, Any]) -> None:
    """Raise ModelError for an option that cannot be honoured exactly."""
    off = dict(UNSUPPORTED)
    if asked.get("cache_implementation") == "quantized":  # other caches change no number
        off["cache_implementation"] = None
    if "ngram_len" in str(asked.get("watermarking_config")):  # SynthID's processor keeps a state from call to call
        off["watermarking_config"] = None
    for name, value in off.items():
        if asked.get(name) not in (None, value):
            written = "null" if value is None else str(value).lower()
            raise ModelError(
                f"{name} = {asked[name]!r}, of the generation config or the options, cannot be honoured exactly: "
                f"turn it off with {name}={value} (lede generate --option {name}={written})"
            )
