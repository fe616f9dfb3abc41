"""The one error a user of the replay store should ever see."""


class DatasetError(ValueError):
    """A dataset, run or file that cannot be used. The message says which, what is wrong with it, and what to do."""
