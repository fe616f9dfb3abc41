"""What a user of this room can get wrong."""

from lede.ground import UserError


class PromptError(UserError, ValueError):
    """Prompts that cannot be used; the message is one line that says which, and what is wrong with it."""


class CollectError(UserError, RuntimeError):
    """A collection that did not get to its end; the message says why, and how to go on."""
