"""``AdapterError``, the base class of this package's errors."""


class AdapterError(ValueError):
    """A user's mistake, in one sentence: what is wrong, with the value, and what to do."""
