"""What happens to documents that are longer than a row. Imports no numpy: slm-train validates its flags with it.

``split``  they become several rows; no token is lost.
``cut``    they are cut to the length of a row.
``drop``   they are left out.
"""

from __future__ import annotations

from typing import Literal

from slm_data.errors import DataError
from slm_data.suggestions import did_you_mean

LongRows = Literal["split", "cut", "drop"]
LONG_ROWS: tuple[LongRows, ...] = ("split", "cut", "drop")


def as_long_rows(name: str) -> LongRows:
    """Return ``name`` as LongRows. Raises DataError with a suggestion if it is unknown."""
    if name not in LONG_ROWS:
        raise DataError(f"--long_rows {name!r}: {did_you_mean(name, LONG_ROWS)}choose from {', '.join(LONG_ROWS)}")
    return name
