"""What a user of this room can get wrong."""

from lede.ground import UserError


class AdaptError(UserError, ValueError):
    """A training that cannot be done as asked; the message is one line that says why, and what to do instead."""
