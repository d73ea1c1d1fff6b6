"""The results of a mode over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slm_lab.results.metrics import METRICS, SHOWN_WITH_RANGE, Metric
from slm_lab.results.run_result import RunResult
from slm_lab.results.spread import Spread


@dataclass(frozen=True)
class ModeResults:
    """A mode, or any other set of runs that differ by seed alone, with the spread of each metric."""

    name: str
    results: tuple[RunResult, ...]
    spreads: Mapping[str, Spread]

    @classmethod
    def from_results(cls, name: str, results: Sequence[RunResult]) -> ModeResults:
        """Compute the spreads of ``results``. Metrics without a value are left out."""
        spreads = {metric.key: Spread.from_values(metric.value(result) for result in results) for metric in METRICS}
        return cls(name, tuple(results), {key: spread for key, spread in spreads.items() if spread})

    @property
    def improvement(self) -> float:
        """Bits per byte less than the base, as medians."""
        return self.spreads["bits_before"].median - self.spreads["bits_after"].median

    def median(self, key: str) -> float | None:
        """Return the median of the metric ``key``; None where no run has a value."""
        return self.spreads[key].median if key in self.spreads else None

    def range_text(self, metric: Metric, separator: str) -> str:
        """Return the formatted range over seeds; empty for a single value, and for metrics that seeds do not change."""
        if metric.key not in SHOWN_WITH_RANGE or metric.key not in self.spreads:
            return ""
        spread = self.spreads[metric.key]
        low, high = metric.format(spread.minimum), metric.format(spread.maximum)
        return f"{low}{separator}{high}" if low != high else ""


def best_modes(modes: Sequence[ModeResults], metric: Metric) -> set[str]:
    """Return the names of the modes with the best value; empty if all look equal, or no value is better."""
    medians = {mode.name: mode.spreads[metric.key].median for mode in modes if metric.key in mode.spreads}
    # Formatted values are compared: a difference that the table does not show is no reason to mark one of two.
    texts = {name: metric.format(value) for name, value in medians.items()}
    if metric.better is None or len(set(texts.values())) < 2:
        return set()
    best = min(medians.values()) if metric.better == "lower" else max(medians.values())
    return {name for name in medians if texts[name] == metric.format(best)}
