"""Recommendations: sentences derived from the figures of a comparison by fixed rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slm_lab.formatting import format_bytes
from slm_lab.results.metrics import METRIC_BY_KEY
from slm_lab.results.mode_results import ModeResults

TOLERATED_LOSS = 0.10  # share of the best improvement that a smaller adapter may lose
SIMILAR_SIZE = 0.25  # relative difference in trainable parameters below which neither adapter counts as the smaller
NEGLIGIBLE = 0.05  # relative difference in memory or speed below which no mode is recommended


def advise(modes: Sequence[ModeResults]) -> list[str]:
    """Recommend modes, in order of importance.

    Returns:
        Sentences; a single one if no run has finished, or no mode improved on the base.
    """
    ranked = sorted((mode for mode in modes if "bits_after" in mode.spreads), key=_bits_after)
    if not ranked:
        return ["No run has finished yet."]
    improved = [mode for mode in ranked if mode.improvement > 0]
    if not improved:
        return [
            "No mode improved on the base under this budget, so these figures support no choice: try a larger budget "
            "or other learning rates."
        ]
    sentences = [_quality(ranked), *_certainty(ranked), *_smallest(improved), *_memory(ranked), *_speed(ranked)]
    return [*sentences, *_not_improved(ranked)]


def _bits_after(mode: ModeResults) -> float:
    return mode.spreads["bits_after"].median


def _quality(ranked: Sequence[ModeResults]) -> str:
    best = ranked[0]
    if len(ranked) == 1:
        improvement = f"{best.label_with_parameters} improved on the base by {best.improvement:.4f} bits per byte"
        return f"{improvement}; there is no other mode to compare it with."
    figures = f"{_bits_after(best):.4f} bits per byte, {best.improvement:.4f} less than the base"
    text = f"Best quality: {best.label_with_parameters}, {figures}"
    return f"{text}; next is {ranked[1].label_with_parameters} with {_bits_after(ranked[1]):.4f}."


def _certainty(ranked: Sequence[ModeResults]) -> list[str]:
    if len(ranked) < 2:
        return []
    seeds = min(len(mode.results) for mode in ranked)
    if seeds < 2:
        return [
            "Only one seed was run, so small differences in quality, memory and speed may be chance; --seeds 3 shows "
            "how much they vary."
        ]
    best = ranked[0]
    overlapping = _overlapping(ranked, "bits_after", best)
    if overlapping:
        names = _join(overlapping)
        return [f"With {seeds} seeds, {best.label} cannot be distinguished from {names}: their ranges overlap."]
    return [f"With {seeds} seeds, every run of {best.label} is better than every run of the other modes."]


def _smallest(improved: Sequence[ModeResults]) -> list[str]:
    """Return the mode with the fewest trainable parameters that keeps most of the best improvement."""
    best = improved[0]
    required = (1 - TOLERATED_LOSS) * best.improvement
    sufficient = [mode for mode in improved if mode.improvement >= required and "trainable" in mode.spreads]
    if not sufficient or len(improved) < 2:
        return []
    smallest = min(sufficient, key=lambda mode: mode.spreads["trainable"].median)
    if smallest is best:
        return [f"No mode with fewer trainable parameters keeps {1 - TOLERATED_LOSS:.0%} of that improvement."]
    if smallest.spreads["trainable"].median > (1 - SIMILAR_SIZE) * best.spreads["trainable"].median:
        return []  # as with --match parameters
    kept = f"{smallest.improvement / best.improvement:.0%} of the improvement of {best.label}"
    trainable = METRIC_BY_KEY["trainable"].format(smallest.spreads["trainable"].median)
    weight_files = smallest.median("shipped")
    files = f" and {format_bytes(weight_files)} of weight files" if weight_files else ""
    return [f"Smallest with little loss: {smallest.label} keeps {kept}, with {trainable} trainable parameters{files}."]


def _memory(modes: Sequence[ModeResults]) -> list[str]:
    return _best_mode(modes, "peak", min, title="Least memory", opposite="most", quantity="Peak memory")


def _speed(modes: Sequence[ModeResults]) -> list[str]:
    return _best_mode(modes, "tokens_per_second", max, title="Fastest", opposite="slowest", quantity="Speed")


def _best_mode(
    modes: Sequence[ModeResults], key: str, choose: Callable[..., str], *, title: str, opposite: str, quantity: str
) -> list[str]:
    """Name the mode with the best value of a metric, unless the modes are close to each other or their ranges overlap.

    Args:
        modes: The modes to choose from.
        key: The metric.
        choose: ``min`` or ``max``.
        title: The beginning of the sentence.
        opposite: An adjective for the mode with the worst value.
        quantity: What the metric measures.
    """
    medians = {mode.label: mode.spreads[key].median for mode in modes if key in mode.spreads}
    if len(medians) < 2:
        return []
    text, unit = METRIC_BY_KEY[key].format, " tokens per second" if key == "tokens_per_second" else ""
    low, high = min(medians.values()), max(medians.values())
    if high <= low * (1 + NEGLIGIBLE):
        values = f"between {text(low)} and {text(high)}" if text(low) != text(high) else f"at {text(low)}"
        return [f"{quantity} is no reason to choose: all modes are {values}{unit}."]
    best = choose(medians, key=lambda name: medians[name])
    overlapping = sorted(_overlapping(modes, key, next(mode for mode in modes if mode.label == best)))
    if len(overlapping) == len(medians) - 1:
        return [f"{quantity} is no reason to choose: the range of {best} overlaps those of all other modes."]
    worst = next(name for name, value in medians.items() if value == (low if medians[best] == high else high))
    doubt = f"; with these seeds it cannot be distinguished from {_join(overlapping)}" if overlapping else ""
    return [
        f"{title}: {best} with {text(medians[best])}{unit} ({opposite}: {worst} with {text(medians[worst])}){doubt}."
    ]


def _overlapping(modes: Sequence[ModeResults], key: str, best: ModeResults) -> list[str]:
    others = (mode for mode in modes if mode is not best and key in mode.spreads)
    return [mode.label for mode in others if mode.spreads[key].overlaps(best.spreads[key])]


def _not_improved(modes: Sequence[ModeResults]) -> list[str]:
    names = [mode.label for mode in modes if mode.improvement <= 0]
    if not names:
        return []
    return [f"{_join(names)} did not improve on the base: try a lower learning rate or a larger budget."]


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
