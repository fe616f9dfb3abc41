"""Generate text with a learned exit policy."""

from collections.abc import Callable
from pathlib import Path

from transformers import LogitsProcessorList

from lede.decode.facts import model_facts
from lede.decode.generate import generate as decode
from lede.decode.model import Model
from lede.decode.round import Generation, Round
from lede.decode.rules import Autoregressive, ExitRule, QPolicy
from lede.decode.sampling import Settings
from lede.serve.policy import Policy, check_fits, load_policy


def generate(
    model: Model,
    prompt: str | list[int],
    policy: Policy | str | Path | None = None,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    stop_strings: tuple[str, ...] = (),
    logits_processor: LogitsProcessorList | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> Generation:
    """Go on from `prompt` (text or token ids): the model's own greedy text, or at a temperature a sample of it.

    The policy (or its folder) changes how fast the text is written, never what it says; None is plain decoding.
    `on_round` sees each round as soon as it is committed. Raises PolicyError for a policy of another model, ModelError
    for a request that cannot work.
    """
    settings = Settings(
        max_new_tokens, temperature, top_k, top_p, seed, tuple(stop_strings), logits_processor=logits_processor
    )
    return decode(model, prompt, policy_rule(model, policy), settings, on_round)


def policy_rule(model: Model, policy: Policy | str | Path | None, name: str = "lede") -> ExitRule:
    """The exit rule that serves a policy on this model."""
    if policy is None:
        return Autoregressive()
    if not isinstance(policy, Policy):
        policy = load_policy(policy)
    check_fits(policy, model_facts(model))
    return QPolicy(policy, name)
