"""The two exceptions that are told in one sentence, without a traceback.

A message starts with what is wrong, in lower case, says what to do, and has no full stop.
"""


class UserError(Exception):
    """A mistake of the user's: exit status 2."""


class RunError(Exception):
    """A run failed, and not by a mistake of the user's: exit status 1."""
