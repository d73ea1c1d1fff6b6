"""What the other packages say of a user's mistake, said as this program says it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from slm_adapters import AdapterError
from slm_data import DataError
from slm_kv import KVError
from slm_train import TrainError as UserError
from slm_train import UsageError


@contextmanager
def one_sentence() -> Iterator[None]:
    """Raises KVError, which ends the program with a sentence and exit code 2."""
    try:
        yield
    except (AdapterError, DataError, UserError, UsageError) as mistake:
        raise KVError(str(mistake)) from mistake
