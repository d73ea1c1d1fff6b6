"""Settings of the loggers of ``--report_to`` that transformers leaves to chance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import TensorBoardCallback, TrackioCallback, WandbCallback

from slm_train.errors import TrainError
from slm_train.loop.trainer import SlmTrainer
from slm_train.run_folder.tensorboard_folder import TENSORBOARD_FOLDER


def prepare_loggers(trainer: SlmTrainer, folder: Path, step: int) -> None:
    """Set where loggers write. Call it before the first evaluation.

    Args:
        trainer: Its callbacks and arguments are changed.
        folder: The run folder.
        step: The step that the run is resumed from, or 0.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            _write_into(callback, folder / TENSORBOARD_FOLDER, step if trainer.is_world_process_zero() else 0)
        # transformers 5.19 closes trackio's run when training ends and opens another for the evaluation after it:
        # under the same name, that is the same run.
        if isinstance(callback, TrackioCallback | WandbCallback) and trainer.args.run_name is None:
            trainer.args.run_name = f"{folder.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"


@contextmanager
def explain_logger_errors() -> Iterator[None]:
    """Turn errors of wandb, such as a server that cannot be reached, into a TrainError; other errors pass."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "wandb":
            raise
        reason = str(error).splitlines()[0]
        raise TrainError(f"--report_to wandb: {reason}; set WANDB_MODE=offline to log to files") from error


def _write_into(callback: Any, folder: Path, step: int) -> None:
    """Make TensorBoard's callback write into ``folder``, unless TENSORBOARD_LOGGING_DIR names another.

    transformers 5.19 chooses a folder only when training starts, so the evaluation before it would be written into the
    current directory. Events after ``step`` are marked as replaced: a resumed run writes them again.
    """
    callback.logging_dir = callback.logging_dir or str(folder)
    if step:
        callback.tb_writer = callback._SummaryWriter(log_dir=callback.logging_dir, purge_step=step + 1)
