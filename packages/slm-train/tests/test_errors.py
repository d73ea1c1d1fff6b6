"""One base class for all errors that a user can cause."""

from __future__ import annotations

from slm_train import TrainError, UsageError
from slm_train.errors import CheckpointError


def test_all_errors_are_train_errors_and_train_errors_are_value_errors() -> None:
    assert issubclass(TrainError, ValueError)
    assert issubclass(UsageError, TrainError)
    assert issubclass(CheckpointError, TrainError)
