"""How much logits may differ by rounding alone, measured on the model itself.

Products of other shapes are summed in another order, and in a mixture of experts the shapes depend on the other tokens
of a batch. So a difference counts only if it is far above those between computations that must agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from slm_train.verification.probe import Probe, relative_difference

# In float32, right models differed by at most 2e-6 of the size of the logits, and leaks in new models by 2e-3 or more.
_SMALLEST = 4e-6
_LARGEST = 1e-3  # in float32, what exceeds this is no rounding
_LOW_PRECISION = 4e-3  # bfloat16 keeps 8 bits; on short documents its rounding may happen to cancel
_MARGIN = 8


@dataclass(frozen=True)
class Rounding:
    """The largest differences between computations that must agree, relative to the size of the logits.

    Attributes:
        moved: Of a document if the other row of its batch changes. The shapes are equal, so it is 0 for most models.
        reshaped: Between a document in a batch and the same document alone.
        is_exact: Whether the model computes in float32 or better.
        is_autocast: Whether matrix products are computed in less precision by autocast.
    """

    moved: float
    reshaped: float
    is_exact: bool
    is_autocast: bool

    def explains(self, moved: float, difference: float = 0.0) -> bool:
        """Return whether rounding explains differences, relative to the size of the logits.

        Args:
            moved: If tokens change that must have no effect, at equal shapes.
            difference: Between computations of other shapes.
        """
        largest = self._tolerance(max(self.moved, self.reshaped, 0.0 if self.is_exact else _LOW_PRECISION))
        # Under autocast rounding shows rarely, but then it may change the choice of experts.
        largest_move = largest if self.is_autocast else self._tolerance(self.moved)
        return moved <= largest_move and difference <= largest

    def _tolerance(self, noise: float) -> float:
        tolerance = max(_SMALLEST, _MARGIN * noise)
        return min(_LARGEST, tolerance) if self.is_exact else tolerance


def least_rounding(probe: Probe) -> Rounding:
    """Return the rounding to expect in any case. It is enough for most models, and costs nothing."""
    return Rounding(0.0, 0.0, probe.is_exact, probe.autocast is not None)


def measure_rounding(probe: Probe, tokens: int) -> Rounding:
    """Measure rounding on documents of ``tokens`` tokens, one in a row."""
    document, other, another = (probe.document(tokens) for _ in range(3))
    alone, in_batch, with_another = (
        probe.logits(*rows)[0] for rows in ((document,), (document, other), (document, another))
    )
    moved, reshaped = relative_difference(with_another, in_batch), relative_difference(in_batch, alone)
    return replace(least_rounding(probe), moved=moved, reshaped=reshaped)
