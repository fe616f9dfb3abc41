"""Exit rules: who decides how deep to draft and when to stop. One interface (base.py), one loop that runs them all."""

from lede.decode.rules.bandit import Bandit, TapOut, Ucb
from lede.decode.rules.base import Autoregressive, ExitRule
from lede.decode.rules.confidence import AdaptiveLookup, Cascade, DraftVerify, Kangaroo, Lite
from lede.decode.rules.dynamic_exit import Del
from lede.decode.rules.fixed import LayerSkip, LengthHeuristic, PromptLookup
from lede.decode.rules.learned import FixedExit, FixedLength, QPolicy
from lede.decode.rules.network import feature_row

__all__ = ["Autoregressive", "ExitRule", "feature_row"]
__all__ += ["AdaptiveLookup", "Cascade", "Del", "DraftVerify", "LayerSkip", "LengthHeuristic", "Lite", "PromptLookup"]
__all__ += ["Bandit", "FixedExit", "FixedLength", "Kangaroo", "QPolicy", "TapOut", "Ucb"]
