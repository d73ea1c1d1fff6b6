"""Writing ``dynamic_checkpoint.pt``: the whole state of the token-budget loop in one file, after a step.

The file is replaced atomically, so there is always one complete file. It is written in the background while the next
step is computed: from a copy, on a CPU if that is small, on a GPU through pinned memory (``host_copies``) if that fits
in a part of what is free. ``torch.load(..., weights_only=True)`` reads it, because it contains only tensors and plain
values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from slm_train.checkpoints.files.atomic_write import atomic_file
from slm_train.checkpoints.step_checkpoint_file import FORMAT, STEP_CHECKPOINT_FILE, load_weights
from slm_train.checkpoints.whole_weights import whole_trained_weights
from slm_train.hardware.host_copies import CudaCopyQueue, HostCopies, copied_to_host

MAX_BACKGROUND_BYTES = 256 * 2**20  # larger ones are written in the foreground on a CPU, without a second copy
_SHARE_OF_HOST_MEMORY = 0.25  # of what is free, for the copies of a GPU's tensors


class StepCheckpoint:
    """Writes the checkpoints of a run, never two at once.

    Args:
        folder: The run folder.
        identity: The settings that must not change when the run is resumed (``run_identity``).
        print_line: Prints a line.
        is_automatic: Whether the interval is chosen by the cost of checkpoints, so that large ones need no advice.
    """

    def __init__(
        self,
        folder: Path,
        identity: dict[str, Any],
        print_line: Callable[[str], None],
        *,
        is_automatic: bool = False,
    ):
        self.path, self.identity, self.print_line = folder / STEP_CHECKPOINT_FILE, identity, print_line
        self.is_automatic = is_automatic
        self.written = 0
        self.bytes = 0  # of the last checkpoint
        self.seconds = 0.0  # that training waited: in save() and in wait(), and a GPU for its copies
        self.copies: HostCopies | None = None  # of a GPU's tensors, once some were copied
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

        The device must have finished its work, or its time would count as that of the checkpoint. Before weights are
        changed again, ``before_update`` must be called.

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

    def before_update(self) -> None:
        """Let what changes weights and optimizer state from now on wait until the last checkpoint is copied."""
        if self.copies:
            self.copies.queue.hold()

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
        start = time.perf_counter()
        self._finish()
        self.seconds += time.perf_counter() - start

    def _finish(self) -> None:
        self.join()
        self._thread, error, self._error = None, self._error, None
        if error:
            raise error

    def summary(self, trained: float) -> dict[str, Any]:
        """Return the figures of all checkpoints, for run.json; ``share`` is their part of ``trained`` seconds."""
        share = self.seconds / max(trained, 1e-9)
        return {"written": self.written, "bytes": self.bytes, "seconds": self.seconds, "share": share}

    def _write(self, content: dict[str, Any]) -> None:
        self._finish()
        tensors = [leaf for leaf in tree_leaves(content) if isinstance(leaf, Tensor)]
        self.bytes = sum(tensor.nbytes for tensor in tensors)
        self.written += 1
        gpu = next((tensor.device for tensor in tensors if tensor.device.type == "cuda"), None)
        if self.copies is None and self.bytes > _most_copied_bytes(gpu):
            self._write_at_once(content)
            return
        if self.copies is None and gpu:
            self.copies = HostCopies(CudaCopyQueue(gpu))
        if self.copies:
            self.seconds += self.copies.queue.held_seconds()  # for the checkpoint before
            self._write_beside(self.copies.begin(content), self.copies.queue.wait)
        else:
            # Copied before training continues: the optimizer changes weights and moments in place.
            self._write_beside(tree_map(copied_to_host, content))

    def _write_at_once(self, content: dict[str, Any]) -> None:
        if self.written == 1 and not self.is_automatic:
            self.print_line(
                f"each checkpoint takes {self.bytes / 1e9:.2f} GB; --checkpoint_interval N writes one every N steps, "
                "auto as many as cost little time"
            )
        self._write_file(content)

    def _write_beside(self, content: dict[str, Any], wait: Callable[[], None] | None = None) -> None:
        """Write in the background, after ``wait`` has returned."""
        self._thread = threading.Thread(target=self._write_in_background, args=(content, wait), name="checkpoint")
        self._thread.start()

    def _write_in_background(self, content: dict[str, Any], wait: Callable[[], None] | None) -> None:
        try:
            if wait:
                wait()
            self._write_file(content)
        except BaseException as error:  # raised again by wait, in the thread that trains
            self._error = error

    def _write_file(self, content: dict[str, Any]) -> None:
        with atomic_file(self.path) as temporary:
            torch.save(content, temporary)


def _most_copied_bytes(gpu: torch.device | None) -> float:
    """Return the size up to which a checkpoint is copied, to be written in the background."""
    return _SHARE_OF_HOST_MEMORY * psutil.virtual_memory().available if gpu else MAX_BACKGROUND_BYTES
