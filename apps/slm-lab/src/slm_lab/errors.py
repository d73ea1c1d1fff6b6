"""Errors that a user can cause or fix."""


class LabError(ValueError):
    """A user's mistake. The message is one sentence with the rejected value and the remedy."""


class DamagedRecordError(LabError):
    """A run.json that cannot be read. The message is the reason, without the path."""
