"""The one exception a user is meant to read."""


class UserError(Exception):
    """Bad input, with a message made for the person who gave it.

    Commands print it as one line on standard error and exit with code 2, without a traceback. The
    message says what is wrong, where (file, flag or config key), and what to do about it.
    """
