"""How much logits may differ by rounding alone, measured on the model itself.

Products of other shapes are summed in another order, and in a mixture of experts the shapes depend on the other tokens
of a batch. So a difference counts only if it is far above those between computations that must agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from slm_train.verification.probe import Probe, relative_difference

# In float32, right models differed by at most 2e-6 of the size of the logits, and leaks in new models by 2e-3 or more.
_SMALLEST = 4e-6
_LARGEST = 1e-3  # in float32, what exceeds this is no rounding
_MARGIN = 8


@dataclass(frozen=True)
class Rounding:
    """The largest differences between computations that must agree, relative to the size of the logits.

    Attributes:
        moved: Of a document if the other row of its batch changes. The shapes are equal, so it is 0 for most models.
        reshaped: Between a document in a batch and the same document alone.
        is_exact: Whether the model computes in float32 or better.
    """

    moved: float
    reshaped: float
    is_exact: bool

    @property
    def largest_move(self) -> float:
        """The largest difference that rounding explains if tokens change that must have no effect."""
        # With less precision rounding is rarely seen, but then it is large: it may change the choice of experts.
        return self._tolerance(self.moved if self.is_exact else max(self.moved, self.reshaped))

    @property
    def largest_difference(self) -> float:
        """The largest difference that rounding explains between computations of other shapes."""
        return self._tolerance(max(self.moved, self.reshaped))

    def _tolerance(self, noise: float) -> float:
        tolerance = max(_SMALLEST, _MARGIN * noise)
        return min(_LARGEST, tolerance) if self.is_exact else tolerance


def measure_rounding(probe: Probe, tokens: int) -> Rounding:
    """Measure rounding on documents of ``tokens`` tokens, one in a row."""
    document, other, another = (probe.document(tokens) for _ in range(3))
    alone, in_batch, with_another = (
        probe.logits(*rows)[0] for rows in ((document,), (document, other), (document, another))
    )
    return Rounding(relative_difference(with_another, in_batch), relative_difference(in_batch, alone), probe.is_exact)
