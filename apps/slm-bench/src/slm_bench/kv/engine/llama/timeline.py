"""When the tokens of simultaneous requests were generated."""

from dataclasses import dataclass

from slm_bench.kv.engine.workload import Tokens


@dataclass(frozen=True)
class Timeline:
    """Generated tokens, and when each was generated, in seconds since the requests were submitted together."""

    tokens: list[Tokens]
    times: list[list[float]]

    @property
    def count(self) -> int:
        """The number of generated tokens."""
        return sum(map(len, self.tokens))

    @property
    def total(self) -> float:
        """Seconds until the last token of all requests."""
        return max(times[-1] for times in self.times)

    @property
    def all_started(self) -> float:
        """Seconds until each request has its first token: until all prompts are computed."""
        return max(times[0] for times in self.times)

    @property
    def decode_speed(self) -> float | None:
        """Tokens per second while all requests decode: from the last first token to the first last one.

        None if there is no such time.
        """
        start, end = self.all_started, min(times[-1] for times in self.times)
        count = sum(start < time <= end for times in self.times for time in times)
        return count / (end - start) if count else None
