"""What can go wrong when learning, in one line a user can act on."""


class LearnError(ValueError):
    """The dataset or the configuration cannot be learned from, or the training diverged."""
