"""Names of the packing methods. Imports no numpy, because slm-train validates its flags with them before anything else.

``concat``    all documents concatenated, cut every ``block_size`` tokens; documents attend to each other.
``best_fit``  several documents per row by best-fit-decreasing; documents do not attend to each other.
``none``      one document per row.
"""

from __future__ import annotations

from typing import Literal

from slm_data.errors import DataError
from slm_data.suggestions import did_you_mean

Packing = Literal["concat", "best_fit", "none"]
PACKINGS: tuple[Packing, ...] = ("concat", "best_fit", "none")


def as_packing(name: str) -> Packing:
    """Return ``name`` as a Packing. Raises DataError with a suggestion if it is unknown."""
    if name not in PACKINGS:
        raise DataError(f"unknown packing {name!r}; {did_you_mean(name, PACKINGS)}choose from {', '.join(PACKINGS)}")
    return name
