"""The error base class of slm-data."""


class DataError(ValueError):
    """A data source or setting that cannot be used.

    The message is one sentence for the user: what is wrong, with the value, and what to do.
    """
