"""What the host needs of a step's results: logits, or tokens and numbers that were computed from them on the device.

Shapes: R rows of one item of work, N rows of several, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from slm_kv.engine.scheduler import Work
from slm_kv.errors import InvalidLogits
from slm_kv.sampling.logprobs import SampledToken

Item = tuple[Work, Tensor]  # and its logits [R, V]
NanKeys = Callable[[Sequence[Work]], Tensor]  # [N]: whether each row of several items of work has a NaN key


@dataclass(frozen=True)
class StepResult:
    """The result of one item of work.

    Attributes:
        logits_RV: Its logits: on the host, if tokens are sampled there.
        tokens: The tokens sampled on the device from the rows of the last known token and the draft; None for logits
            from which none can be sampled. Empty if none were sampled there.
        prompt_numbers: The numbers of its tokens that ``Sequence.add_prompt_numbers`` takes. None if they are not
            needed, or are to be computed from the logits.
        has_nan_keys: Whether a key that was checked is NaN.
    """

    logits_RV: Tensor
    tokens: tuple[SampledToken | None, ...] = ()
    prompt_numbers: Sequence[Sequence[float]] | None = None
    has_nan_keys: bool = False

    def check_keys(self) -> None:
        """Raise InvalidLogits if a key is NaN."""
        if self.has_nan_keys:
            raise InvalidLogits("the model gave NaN keys for the prompt; check its weights, or try dtype float32")


# Waits for the device, and returns the results.
Wait = Callable[[], list[tuple[Work, StepResult]]]


def host_results(items: Sequence[Item], nan_keys: NanKeys) -> Wait:
    """The results on a CPU, where numpy samples faster than torch."""
    results = []
    for work, logits_RV in items:
        has_nan_keys = work.checks_keys and bool(nan_keys([work]).any())
        results.append((work, StepResult(logits_RV, has_nan_keys=has_nan_keys)))
    return lambda: results
