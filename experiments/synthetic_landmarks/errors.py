"""What goes wrong that the user can put right."""


class DrawingError(Exception):
    """The data set cannot be drawn; the message says in one line why, and what to do about it."""
