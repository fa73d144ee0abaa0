"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake of the user's, as one line that names the culprit and says what to do.

    The command line prints it without a traceback and exits with status 2.
    """
