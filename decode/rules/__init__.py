"""Exit rules: who decides how deep to draft and when to stop. One protocol (base.py), one loop that runs them all."""

from decode.rules.base import MAX_DRAFTS, Autoregressive, ExitRule, Rule
from decode.rules.chance import RandomRule
from decode.rules.layerskip import LayerSkip
from decode.rules.learned import QPolicy, ValueFunction, feature_row

__all__ = [
    "MAX_DRAFTS", "Autoregressive", "ExitRule", "LayerSkip", "QPolicy", "RandomRule", "Rule", "ValueFunction",
    "feature_row",
]  # fmt: skip
