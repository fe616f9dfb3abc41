"""What can go wrong when learning, in one line a user can act on."""

from lede.ground import UserError


class LearnError(UserError, ValueError):
    """The dataset or the configuration cannot be learned from, or the training diverged."""
