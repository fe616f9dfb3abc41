"""What can be wrong with a file that a report is of, or a line of a chat, in one line a user can act on."""

from lede.ground import UserError


class ReportError(UserError, ValueError):
    """A file that a report is to show is not one that it can show."""


class ChatError(UserError, ValueError):
    """A line of a chat that asks for what there is not."""
