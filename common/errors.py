"""The two exceptions that are told in one sentence, without a traceback, and how a text is shown.

A message starts with what is wrong, in lower case, says what to do, and has no full stop.
"""


class UserError(Exception):
    """A mistake of the user's: exit status 2."""


class RunError(Exception):
    """A run failed, and not by a mistake of the user's: exit status 1."""


def printable(text: str) -> str:
    """Returns a text as it can be stored and shown anywhere; what can't, a path may hold it, is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
