"""Half of a learned policy: what each of its two decisions is worth on its own."""

from lede.decode.rules.learned import QPolicy
from lede.decode.rules.network import ValueFunction
from lede.decode.state import State


class FixedExit(QPolicy):
    """The policy decides only the draft length; the exit layer, one of its candidates, is fixed."""

    def __init__(
        self, policy: ValueFunction, exit_layer: int, name: str = "lede-fixed-exit", max_drafts: int | None = None
    ):
        super().__init__(policy, name, max_drafts)
        if exit_layer not in self.layers:
            raise ValueError(f"layer {exit_layer} is not a candidate of the policy: {self.layers}")
        self.layers = (exit_layer,)


class FixedLength(QPolicy):
    """The policy decides only the exit layer; `draft_length` tokens are drafted there."""

    def __init__(self, policy: ValueFunction, draft_length: int, name: str = "lede-fixed-length"):
        super().__init__(policy, name, draft_length)

    def draft_on(self, state: State) -> bool:
        """Draft up to the limit."""
        return True
