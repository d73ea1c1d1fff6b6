"""Where TensorBoard's events go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import TensorBoardCallback

from slm_train.run_folder.tensorboard_folder import TENSORBOARD_FOLDER


def log_into_run_folder(trainer: Any, folder: Path, step: int) -> None:
    """Make TensorBoard's callback write into the run folder, unless TENSORBOARD_LOGGING_DIR names another.

    transformers 5.19 chooses a folder only when training starts, so the evaluation before it would be written into
    the current directory. Events after ``step`` are those that a resumed run repeats: they are marked as replaced.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            settings: Any = callback
            settings.logging_dir = settings.logging_dir or str(folder / TENSORBOARD_FOLDER)
            if step and trainer.is_world_process_zero():
                settings.tb_writer = settings._SummaryWriter(log_dir=settings.logging_dir, purge_step=step + 1)
