"""What a user of this room can get wrong."""


class AdaptError(ValueError):
    """A training that cannot be done as asked; the message is one line that says why, and what to do instead."""
