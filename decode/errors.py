"""What this room says to a user about a model or a request that cannot work."""

from lede.ground import UserError


class ModelError(UserError, ValueError):
    """A model, device, dtype or request that cannot be decoded: one line that says what is wrong and what to do."""
