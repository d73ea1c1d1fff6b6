"""What a user can get wrong about a run."""


class UserError(Exception):
    """One sentence for the user: what was wrong, with the value, and what to do."""
