"""Trouble with a model of the hub, in one sentence. The libraries raise a dozen different exceptions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from slm_adapters import hub_error_reason as reason
from slm_train.errors import UserError

WAYS_OUT = "check the name, try again later, use a copy loaded before (HF_HUB_OFFLINE=1), a local folder, or sample"


@contextmanager
def explained(name: str, kind: str, trouble: Exception | None = None) -> Iterator[None]:
    """Turn what goes wrong while ``name`` (a model or a tokenizer) is loaded into a UserError.

    With ``trouble``, why the hub is out of reach, only the cache was looked at."""
    try:
        yield
    except UserError:
        raise
    except Exception as fault:
        where = "the files in it are damaged or not a model's" if os.path.isdir(name) else WAYS_OUT
        raise UserError(f"cannot load the {kind} {name}: {reason(trouble or fault)}; {where}") from fault
