"""Writing ``dynamic_checkpoint.pt``: the whole state of the token-budget loop in one file, after each step.

The file is replaced atomically, so there is always one complete file. A small checkpoint is copied to the CPU and
written in the background while the next step is computed. ``torch.load(..., weights_only=True)`` reads it, because it
contains only tensors and plain values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from slm_train.checkpoints.files.atomic_write import atomic_file
from slm_train.checkpoints.step_checkpoint_file import FORMAT, STEP_CHECKPOINT_FILE, load_weights
from slm_train.checkpoints.whole_weights import whole_trained_weights

MAX_BACKGROUND_BYTES = 256 * 2**20  # larger checkpoints are written in the foreground, without a second copy in memory


class StepCheckpoint:
    """Writes the checkpoints of a run, never two at once.

    Args:
        folder: The run folder.
        identity: The settings that must not change when the run is resumed (``run_identity``).
        print_line: Prints a line.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], print_line: Callable[[str], None]):
        self.path, self.identity, self.print_line = folder / STEP_CHECKPOINT_FILE, identity, print_line
        self.written = 0
        self.bytes = 0  # of the last checkpoint
        self.seconds = 0.0  # spent in save(), during which training waits
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        rank: dict[str, Any],
    ) -> None:
        """Save a checkpoint. Every process must call this; the first one writes.

        Args:
            accelerator: For communication with the other processes.
            model: The model, not wrapped.
            optimizer: The optimizer, wrapped by accelerate.
            state: Values that are the same on every process.
            rank: Values of this process, such as its random state.

        Raises:
            CheckpointError: If this checkpoint, or the previous one in the background, could not be written.
        """
        start = time.perf_counter()
        weights = whole_trained_weights(accelerator, model)
        wrapper: Any = optimizer
        optimizer_state = wrapper.optimizer.state_dict()
        ranks = gather_object([rank]) if accelerator.num_processes > 1 else [rank]
        if accelerator.is_main_process:
            header = {"format": FORMAT, "version": version("slm-train"), "identity": self.identity}
            self._write(header | state | {"ranks": ranks, "weights": weights, "optimizer": optimizer_state})
        self.seconds += time.perf_counter() - start

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Load weights and optimizer state from the content of a checkpoint."""
        wrapper: Any = optimizer
        load_weights(model, state["weights"])
        wrapper.optimizer.load_state_dict(state["optimizer"])

    def join(self) -> None:
        """Wait for the end of a write in the background, whether it succeeds or not."""
        if self._thread:
            self._thread.join()

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk. Raises the error that prevented it."""
        self.join()
        self._thread, error, self._error = None, self._error, None
        if error:
            raise error

    def summary(self) -> dict[str, Any]:
        """Return the figures of all checkpoints, for run.json."""
        return {"written": self.written, "bytes": self.bytes, "seconds": self.seconds}

    def _write(self, content: dict[str, Any]) -> None:
        self.wait()
        self.bytes = sum(leaf.nbytes for leaf in tree_leaves(content) if isinstance(leaf, Tensor))
        self.written += 1
        if self.bytes > MAX_BACKGROUND_BYTES:
            if self.written == 1:
                self.print_line(
                    f"each checkpoint takes {self.bytes / 1e9:.2f} GB; --checkpoint_interval N writes one every N steps"
                )
            self._write_file(content)
            return
        # Copied before training continues: the optimizer changes weights and moments in place.
        copied = tree_map(
            lambda leaf: leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf, content
        )
        self._thread = threading.Thread(target=self._write_in_background, args=(copied,), name="checkpoint")
        self._thread.start()

    def _write_in_background(self, content: dict[str, Any]) -> None:
        try:
            self._write_file(content)
        except BaseException as error:  # raised again by wait, in the thread that trains
            self._error = error

    def _write_file(self, content: dict[str, Any]) -> None:
        with atomic_file(self.path) as temporary:
            torch.save(content, temporary)
