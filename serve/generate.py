"""Generate text with a learned exit policy."""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lede.decode.facts import model_facts
from lede.decode.generate import encode
from lede.decode.generate import generate as decode
from lede.decode.generation_config import request
from lede.decode.model import Model
from lede.decode.round import Generation, Round
from lede.decode.rules import Autoregressive, ExitRule, QPolicy
from lede.policy import Policy, check_fits, load_policy

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

log = logging.getLogger("lede")


def generate(
    model: Model,
    prompt: Any,
    policy: Policy | str | Path | None = None,
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_strings: Sequence[str] = (),
    logits_processor: "LogitsProcessorList | None" = None,
    on_round: Callable[[Round], None] | None = None,
    **options: Any,
) -> Generation:
    """Go on from `prompt` (text or token ids, see `decode.generate.encode`) as the model's own `generate` would.

    What is not given is as the checkpoint's generation config says, else as in `transformers`, but for 128 new tokens.
    A temperature asks for sampling, 0 for greedy decoding. `options` are others of `transformers.GenerationConfig`,
    such as repetition_penalty=1.1. The policy (or its folder) changes how fast the text is written, never what it says;
    None is plain decoding. That it learned from unlike texts (greedy, or of other temperatures) is warned of once, in
    the log `lede`. `on_round` sees each round as soon as it is committed. Raises PolicyError for a policy of another
    model, ModelError for a request that cannot work.
    """
    ids = encode(model, prompt)
    given: dict[str, Any] = dict(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p)
    given["stop_strings"] = stop_strings or None
    options |= {name: value for name, value in given.items() if value is not None}
    settings = request(model, len(ids), options, seed, logits_processor)
    policy = load_policy(policy) if isinstance(policy, str | Path) else policy
    if policy is not None and (unlike := policy.unlike(settings.temperature)):
        _tell(unlike)
    return decode(model, ids, policy_rule(model, policy), settings, on_round)


@cache
def _tell(line: str) -> None:
    """Warn, once a process."""
    log.warning(line)


def policy_rule(model: Model, policy: Policy | str | Path | None, name: str = "lede") -> ExitRule:
    """The exit rule that serves a policy on this model."""
    if policy is None:
        return Autoregressive()
    if not isinstance(policy, Policy):
        policy = load_policy(policy)
    check_fits(policy, model_facts(model))
    return QPolicy(policy, name)
