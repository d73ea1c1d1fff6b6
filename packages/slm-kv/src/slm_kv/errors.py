"""What a user can get wrong about caches and engines."""


class KVError(ValueError):
    """One sentence for the user: what was wrong, with the value, and what to do."""


class PoolFull(KVError):
    """No page is free for the next token."""
