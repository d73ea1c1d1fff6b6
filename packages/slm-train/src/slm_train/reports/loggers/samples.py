"""Text samples in TensorBoard, trackio and wandb, through the callbacks with which transformers logs there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers.integrations.integration_utils import TensorBoardCallback, TrackioCallback, WandbCallback

Samples = Sequence[dict[str, str]]
_COLUMNS = ["step", "prompt", "text"]


def report_samples(callbacks: Sequence[Any], step: int, samples: Samples) -> None:
    """Send the samples of a step to those loggers that are among ``callbacks``."""
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer:
            _to_tensorboard(callback.tb_writer, step, samples)
        elif isinstance(callback, WandbCallback | TrackioCallback):
            library: Any = callback._wandb if isinstance(callback, WandbCallback) else callback._trackio
            library.log({"samples": _table(library, step, samples), "train/global_step": step})


def _to_tensorboard(writer: Any, step: int, samples: Samples) -> None:
    for number, sample in enumerate(samples, 1):
        writer.add_text(f"samples/{number}", sample["text"].replace("\n", "  \n"), step)  # Markdown's line break
    writer.flush()


def _table(library: Any, step: int, samples: Samples) -> Any:
    rows = [[step, sample["prompt"], sample["text"]] for sample in samples]
    return library.Table(columns=_COLUMNS, data=rows)
