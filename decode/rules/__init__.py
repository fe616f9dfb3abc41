"""Exit rules: who decides how deep to draft and when to stop. One protocol (base.py), one loop that runs them all."""

from decode.rules.ablations import FixedExit, FixedLength
from decode.rules.adaptive_lookup import AdaptiveLookup
from decode.rules.base import LONG_DRAFTS, MAX_DRAFTS, Autoregressive, ExitRule, Rule
from decode.rules.chance import RandomRule
from decode.rules.draft_verify import DraftVerify
from decode.rules.dynamic_exit import Del
from decode.rules.heuristic import LengthHeuristic
from decode.rules.layerskip import LayerSkip
from decode.rules.learned import QPolicy
from decode.rules.lite import Lite
from decode.rules.lookup import PromptLookup
from decode.rules.network import ValueFunction, feature_row

__all__ = [
    "LONG_DRAFTS", "MAX_DRAFTS", "AdaptiveLookup", "Autoregressive", "Del", "DraftVerify", "ExitRule", "FixedExit",
    "FixedLength", "LayerSkip", "LengthHeuristic", "Lite", "PromptLookup", "QPolicy", "RandomRule", "Rule",
    "ValueFunction", "feature_row",
]  # fmt: skip
