"""What a user of the bench got wrong."""

from lede.ground import UserError


class BenchError(UserError):
    """One line: what cannot work, and what to do about it."""
