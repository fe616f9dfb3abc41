"""What can be wrong with a policy folder or a line of a chat, in one line a user can act on."""


class PolicyError(ValueError):
    """A policy cannot be loaded, or does not fit the model it is to steer."""


class ReportError(ValueError):
    """A file that a report is to show is not one that it can show."""


class ChatError(ValueError):
    """A line of a chat that asks for what there is not."""
