"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """A mistake of the user's: its message is one sentence that says what was wrong and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
