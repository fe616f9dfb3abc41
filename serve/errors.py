"""What can be wrong with a policy folder, in one line a user can act on."""


class PolicyError(ValueError):
    """A policy cannot be loaded, or does not fit the model it is to steer."""
