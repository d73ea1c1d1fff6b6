"""What a user can get wrong."""


class LabError(Exception):
    """One sentence for the user: what was wrong, with the value, and what to do."""
