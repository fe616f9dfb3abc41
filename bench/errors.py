"""What a user of the bench got wrong."""


class BenchError(Exception):
    """One line: what cannot work, and what to do about it."""
