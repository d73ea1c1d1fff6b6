"""The base class of errors that ``slm-bench`` reports to its user."""


class BenchError(ValueError):
    """A user's mistake or a failed measurement; the message is one sentence and names the remedy where there is one.

    The command line prints the message and exits with code 2.
    """
