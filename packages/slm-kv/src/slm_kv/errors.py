"""The errors of this package. All of them are KVError, so that one ``except`` catches what a user can cause."""

REMEDY = "; use the model's own generate"


class KVError(ValueError):
    """A user's mistake. The message is one sentence with the offending value and the remedy."""


class UnsupportedModel(KVError):
    """A property of the model, not of the arguments, rules out paged attention. The message ends with ``REMEDY``."""


class GrammarError(KVError):
    """A grammar that is invalid, unsupported or impossible to follow."""


class PoolFull(KVError):
    """No page is free for the next token."""


class InvalidLogits(KVError):
    """The model produced NaN or infinite logits."""


def require_at_least(minimum: int, **sizes: object) -> None:
    """Raise KVError for the first of ``sizes`` that is not a whole number of at least ``minimum``."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < minimum:
            raise KVError(f"{name}={size!r} is not a whole number of at least {minimum}")
