"""A learned value function as an exit rule."""

from lede.decode.rules.base import MAX_DRAFTS, Rule
from lede.decode.rules.network import ValueFunction, decider
from lede.decode.state import State


class QPolicy(Rule):
    """Greedy in a learned value function (paper §3.2): exit where exiting is worth more than going on."""

    name = "lede"
    needs_state = True

    def __init__(self, policy: ValueFunction, name: str = "lede", max_drafts: int | None = None):
        self.name = name
        self.max_drafts = getattr(policy, "max_drafts", MAX_DRAFTS) if max_drafts is None else max_drafts
        self.layers = tuple(policy.layers)
        self.needs_trace = "conf_trace" in policy.features
        self.needs_lookup = any(feature.startswith("lookup_") for feature in policy.features)
        self._decide = decider(policy)

    def exit_here(self, state: State) -> bool:
        """Q(exit) > Q(continue)."""
        return self._decide(state)

    draft_on = exit_here
