"""Names of what has a loss. Imports nothing heavy: slm-train validates its flags with it."""

from __future__ import annotations

from typing import Literal

from slm_data.errors import DataError
from slm_data.suggestions import did_you_mean

LossOn = Literal["completion", "all"]
LOSS_ON: tuple[LossOn, ...] = ("completion", "all")


def as_loss_on(name: str) -> LossOn:
    """Return ``name`` as LossOn. Raises DataError with a suggestion if it is unknown."""
    if name not in LOSS_ON:
        raise DataError(f"--loss_on {name!r}: {did_you_mean(name, LOSS_ON)}choose from {', '.join(LOSS_ON)}")
    return name
