"""``tensorboard/``: the event files of a run that logs to TensorBoard."""

from __future__ import annotations

TENSORBOARD_FOLDER = "tensorboard"
