"""The results of a mode over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slm_lab.results.metrics import METRIC_BY_KEY, METRICS, SHOWN_WITH_RANGE, Metric
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
    def label(self) -> str:
        """The name in reports: that of the variant, such as ``lora r=4``, with the folder of copied runs before it."""
        folder, slash, _ = self.name.rpartition("/")
        variant = self.results[0].variant if self.results else None
        return f"{folder}{slash}{variant}" if variant else self.name

    @property
    def label_with_parameters(self) -> str:
        """The label with the number of trainable parameters, which belongs beside any figure of quality."""
        count = self.median("trainable")
        return self.label if count is None else f"{self.label} ({METRIC_BY_KEY['trainable'].format(count)} parameters)"

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
        if low == high:
            return ""
        (number, _, unit), (_, _, other_unit) = low.partition(" "), high.partition(" ")
        return f"{number if unit == other_unit else low}{separator}{high}"


def best_modes(modes: Sequence[ModeResults], metric: Metric) -> set[str]:
    """Return the names of the modes with the best value; empty if there is no evidence that one is better.

    Metrics that seeds change need several seeds, and a range that overlaps no other. Of the others, all that share the
    best value are returned, unless all modes do.
    """
    with_value = [mode for mode in modes if metric.key in mode.spreads]
    # Formatted values are compared: a difference that the table does not show is no reason to mark one of two.
    texts = {mode.name: metric.format(mode.spreads[metric.key].median) for mode in with_value}
    if metric.better is None or len(set(texts.values())) < 2:
        return set()
    choose = min if metric.better == "lower" else max
    best = choose(with_value, key=lambda mode: mode.spreads[metric.key].median)
    if not metric.varies:
        return {name for name, text in texts.items() if text == texts[best.name]}
    return {best.name} if _is_beyond_spread(best, with_value, metric) else set()


def _is_beyond_spread(best: ModeResults, modes: Sequence[ModeResults], metric: Metric) -> bool:
    if min(len(mode.results) for mode in modes) < 2:
        return False
    spread = best.spreads[metric.key]
    return not any(spread.overlaps(mode.spreads[metric.key]) for mode in modes if mode is not best)
