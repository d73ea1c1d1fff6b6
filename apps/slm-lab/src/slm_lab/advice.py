"""What to choose when: sentences drawn from the figures of a comparison. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from slm_lab.figures import ROWS, Mode, size

LOSS = 0.10  # of the gain, that a small adapter may lose
CLOSE = 0.05  # of a figure of memory or speed: less decides nothing
TEXTS = {row.key: row.text for row in ROWS}


def advise(modes: Sequence[Mode]) -> list[str]:
    """Sentences, the most important first; a sentence of its own where the figures decide nothing."""
    known = sorted((mode for mode in modes if "bits_after" in mode.values), key=_bits)
    if not known:
        return ["No run has come to its end yet."]
    gaining = [mode for mode in known if mode.gain > 0]
    if not gaining:
        return [
            "No mode got better than the base under this budget: give more of it, or other learning rates; nothing "
            "can be chosen by these figures."
        ]
    sentences = [_quality(known), *_certainty(known), *_smallest(gaining), *_memory(known), *_speed(known)]
    return [*sentences, *_worse(known)]


def _bits(mode: Mode) -> float:
    return mode.values["bits_after"].median


def _quality(modes: Sequence[Mode]) -> str:
    first = modes[0]
    if len(modes) == 1:
        return f"{first.name} took {first.gain:.4f} bits per byte off the base; there is no other mode to compare with."
    text = f"Best quality: {first.name}, {_bits(first):.4f} bits per byte, {first.gain:.4f} less than the base"
    return f"{text}; next is {modes[1].name} with {_bits(modes[1]):.4f}."


def _certainty(modes: Sequence[Mode]) -> list[str]:
    """What of the order may be chance."""
    if len(modes) < 2:
        return []
    if min(len(mode.outcomes) for mode in modes) < 2:
        return ["Only one seed was run: a small difference in quality may be chance; --seeds 3 shows how much varies."]
    first, seeds = modes[0], min(len(mode.outcomes) for mode in modes)
    level = [mode.name for mode in modes[1:] if mode.values["bits_after"].overlaps(first.values["bits_after"])]
    if level:
        return [f"Over {seeds} seeds {first.name} cannot be told from {_list(level)}: their ranges overlap."]
    return [f"Over {seeds} seeds no run of another mode came as low as any of {first.name}."]


def _smallest(gaining: Sequence[Mode]) -> list[str]:
    """The fewest trained parameters that keep most of the best gain."""
    enough = [mode for mode in gaining if mode.gain >= (1 - LOSS) * gaining[0].gain and "trainable" in mode.values]
    if not enough or len(gaining) < 2:
        return []
    mode = min(enough, key=lambda mode: mode.values["trainable"].median)
    trained = TEXTS["trainable"](mode.values["trainable"].median)
    if mode is gaining[0]:
        return [f"No mode with fewer trained parameters has {1 - LOSS:.0%} of that gain."]
    ships = f" and ships {size(shipped)}" if (shipped := mode.median("shipped")) else ""
    return [
        f"Smallest that loses little: {mode.name} has {mode.gain / gaining[0].gain:.0%} of the gain of "
        f"{gaining[0].name}, trains {trained} parameters{ships}."
    ]


def _memory(modes: Sequence[Mode]) -> list[str]:
    return _extreme(modes, "peak", min, "Least memory", "Peak memory decides nothing")


def _speed(modes: Sequence[Mode]) -> list[str]:
    return _extreme(modes, "tokens_per_second", max, "Fastest", "Speed decides nothing")


def _extreme(modes: Sequence[Mode], key: str, which: Callable[..., str], title: str, level: str) -> list[str]:
    """Which mode leads by a figure, and by how much; where all are close, that it does not matter."""
    values = {mode.name: mode.values[key] for mode in modes if key in mode.values}
    if len(values) < 2:
        return []
    text, unit = TEXTS[key], " tokens a second" if key == "tokens_per_second" else ""
    medians = {name: spread.median for name, spread in values.items()}
    low, high = min(medians.values()), max(medians.values())
    if high <= low * (1 + CLOSE):
        lie = f"lie between {text(low)} and {text(high)}" if text(low) != text(high) else f"are at {text(low)}"
        return [f"{level}: all {lie}{unit}."]
    first = which(medians, key=lambda name: medians[name])
    alike = sorted(name for name in values if name != first and values[name].overlaps(values[first]))
    if len(alike) == len(values) - 1:
        return [f"{level}: over the seeds the range of {first}, which leads, overlaps those of all others."]
    last = next(name for name, value in medians.items() if value == (low if medians[first] == high else high))
    doubt = f"; over the seeds it cannot be told from {_list(alike)}" if alike else ""
    return [
        f"{title}: {first}, {text(medians[first])}{unit}; {last} is at the other end with {text(medians[last])}{doubt}."
    ]


def _worse(modes: Sequence[Mode]) -> list[str]:
    names = [mode.name for mode in modes if mode.gain <= 0]
    if not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{_list(names)} {verb} no better than the base here: try a lower learning rate, or a larger budget."]


def _list(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
