"""Admission control: the server's limits on a request (422) and the bounded queue (429)."""

from __future__ import annotations

import math

from slm_serve.backends.protocol import Job
from slm_serve.errors import RequestError
from slm_serve.settings import Settings

INITIAL_SECONDS = 2.0  # assumed duration of a text before any was measured
NEWEST_WEIGHT = 0.1  # weight of the latest text in the moving average of durations
MAX_RETRY_AFTER = 60  # seconds


class AdmissionControl:
    """Decides whether a request may be queued, and tells rejected clients when to try again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._average_seconds = INITIAL_SECONDS

    def record(self, seconds: float) -> None:
        """Add the duration of a finished text to the average."""
        self._average_seconds += NEWEST_WEIGHT * (seconds - self._average_seconds)

    def check_limits(self, job: Job) -> None:
        """Raise RequestError 422 for a job that exceeds the server's limits."""
        prompt_length, max_prompt = len(job.prompt_ids), self._settings.max_prompt_tokens
        if max_prompt and prompt_length > max_prompt:
            raise RequestError(
                422, f"the prompt has {prompt_length} tokens and this server takes {max_prompt}; shorten it"
            )
        new_tokens, max_new = job.params.max_new_tokens, self._settings.max_new_tokens
        if max_new and new_tokens > max_new:
            raise RequestError(
                422, f"{new_tokens} new tokens were requested and this server allows {max_new}; ask for fewer"
            )

    def check_queue(self, new_texts: int, unfinished: int, max_sequences: int) -> None:
        """Raise RequestError 429 if ``new_texts`` do not fit beside the ``unfinished`` ones, 422 if they never can.

        ``max_sequences`` texts run at once, and ``max_queue`` more may wait.
        """
        capacity = max_sequences + self._settings.max_queue
        if new_texts > capacity:
            raise RequestError(
                422, f"{new_texts} texts were requested and this server takes {capacity} at once; ask for fewer"
            )
        if unfinished + new_texts > capacity:
            retry_after = self._retry_after(unfinished, max_sequences)
            raise RequestError(
                429,
                f"the queue is full; try again in {retry_after} s",
                code="queue_full",
                headers={"Retry-After": str(retry_after)},
            )

    def _retry_after(self, unfinished: int, max_sequences: int) -> int:
        """Estimate the seconds until the unfinished texts are done, in batches of ``max_sequences``."""
        seconds = math.ceil(self._average_seconds * unfinished / max_sequences)
        return min(max(seconds, 1), MAX_RETRY_AFTER)
