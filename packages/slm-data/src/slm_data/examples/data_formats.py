"""Names of data formats. Imports nothing heavy: slm-train validates its flags with it.

``text``               one text per document.
``messages``           ``messages`` with role and content, or ``conversations`` with from and value.
``prompt_completion``  ``prompt`` and ``completion``.
``instruction``        ``instruction``, ``input`` (may be missing) and ``output`` or ``response``.
"""

from __future__ import annotations

from typing import Literal

from slm_data.errors import DataError
from slm_data.suggestions import did_you_mean

DataFormat = Literal["text", "messages", "prompt_completion", "instruction"]
DATA_FORMATS: tuple[DataFormat, ...] = ("text", "messages", "prompt_completion", "instruction")
AUTO = "auto"  # decided by the first row


def as_data_format(name: str) -> DataFormat | None:
    """Return ``name`` as DataFormat; None for ``auto``. Raises DataError with a suggestion if it is unknown."""
    if name == AUTO:
        return None
    if name not in DATA_FORMATS:
        choices = (AUTO, *DATA_FORMATS)
        raise DataError(f"--data_format {name!r}: {did_you_mean(name, choices)}choose from {', '.join(choices)}")
    return name
