"""A learned policy as an exit rule, and what each of its two decisions is worth on its own."""

from lede.decode.rules.base import ExitRule
from lede.decode.rules.network import decider
from lede.decode.state import State
from lede.policy import Policy


class QPolicy(ExitRule):
    """Greedy in a learned policy (paper §3.2): exit where exiting is worth more than going on."""

    needs_state = True

    def __init__(self, policy: Policy, name: str = "lede", max_drafts: int | None = None):
        self.name, self.policy = name, policy
        self.max_drafts = policy.max_drafts if max_drafts is None else max_drafts
        self.layers = policy.layers
        self.needs_trace = "conf_trace" in policy.features
        self.needs_lookup = any(feature.startswith("lookup_") for feature in policy.features)
        self._decide = decider(policy)

    def exit_here(self, state: State) -> bool:
        """Q(exit) > Q(continue)."""
        return self._decide(state)

    draft_on = exit_here


class FixedExit(QPolicy):
    """The policy decides only the draft length; the exit layer, one of its candidates, is fixed."""

    def __init__(self, policy: Policy, exit_layer: int, name: str = "lede-fixed-exit"):
        super().__init__(policy, name)
        if exit_layer not in self.layers:
            raise ValueError(f"layer {exit_layer} is not a candidate of the policy: {self.layers}")
        self.layers = (exit_layer,)


class FixedLength(QPolicy):
    """The policy decides only the exit layer; `draft_length` tokens are drafted there."""

    def __init__(self, policy: Policy, draft_length: int, name: str = "lede-fixed-length"):
        super().__init__(policy, name, draft_length)

    def draft_on(self, state: State) -> bool:
        return True
