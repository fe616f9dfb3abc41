"""The one error a user of the replay store should ever see."""

from lede.ground import UserError


class DatasetError(UserError, ValueError):
    """A dataset, run or file that cannot be used. The message says which, what is wrong with it, and what to do.

    kind: of a damaged file, as in `replay.Finding`.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind
