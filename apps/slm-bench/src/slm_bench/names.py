"""Names parted by commas, as a flag takes them. No torch here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence


def of_names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """What a flag makes of its value: names of ``known``, in the order of those."""

    def names(text: str) -> tuple[str, ...]:
        asked = [part.strip() for part in text.split(",")]
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return tuple(name for name in known if name in asked)

    return names
