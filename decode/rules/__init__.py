"""Exit rules: who decides how deep to draft and when to stop. One protocol (base.py), one loop that runs them all."""

from lede.decode.rules.ablations import FixedExit, FixedLength
from lede.decode.rules.adaptive_lookup import AdaptiveLookup
from lede.decode.rules.base import LONG_DRAFTS, MAX_DRAFTS, Autoregressive, ExitRule, Rule
from lede.decode.rules.chance import RandomRule
from lede.decode.rules.draft_verify import DraftVerify
from lede.decode.rules.dynamic_exit import Del
from lede.decode.rules.heuristic import LengthHeuristic
from lede.decode.rules.layerskip import LayerSkip
from lede.decode.rules.learned import QPolicy
from lede.decode.rules.lite import Lite
from lede.decode.rules.lookup import PromptLookup
from lede.decode.rules.network import ValueFunction, feature_row

__all__ = [
    "LONG_DRAFTS",
    "MAX_DRAFTS",
    "AdaptiveLookup",
    "Autoregressive",
    "Del",
    "DraftVerify",
    "ExitRule",
    "FixedExit",
    "FixedLength",
    "LayerSkip",
    "LengthHeuristic",
    "Lite",
    "PromptLookup",
    "QPolicy",
    "RandomRule",
    "Rule",
    "ValueFunction",
    "feature_row",
]
