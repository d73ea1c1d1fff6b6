"""What a user can put right."""


class DataError(ValueError):
    """A text source that cannot be used.

    The message is one sentence for the user: what was wrong, with the value, and what to do.
    """
