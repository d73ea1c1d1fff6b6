"""What a user can get wrong about adapters."""


class AdapterError(ValueError):
    """One sentence for the user: what was wrong, with the value, and what to do."""
