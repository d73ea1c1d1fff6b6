"""``dynamic_checkpoint.pt``: all that the token-budget loop needs to go on, in one file, after every step.

Written aside, synced and renamed, so that there is always one whole file. A small one is copied first and written
while the next step is computed. ``torch.load(..., weights_only=True)`` reads it: tensors and plain values.
"""

from __future__ import annotations

import pickle
import random
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils._pytree import tree_leaves, tree_map

from slm_train.checkpoint import CheckpointError, writing_file

NAME = "dynamic_checkpoint.pt"
FORMAT = 1
SMALL = 256 * 2**20  # bytes that may be held twice for a while
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class StepCheckpoint:
    """Writes the checkpoints of a run, never two at once. ``identity``: what must be the same to go on."""

    def __init__(self, folder: Path, identity: dict[str, Any], say: Callable[[str], None]):
        self.path, self.identity, self.say = folder / NAME, identity, say
        self.written = 0
        self.bytes = 0  # of the last one
        self.seconds = 0.0  # that the loop waited for checkpoints
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None

    def save(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        rank: dict[str, Any],
    ) -> None:
        """``state`` is the same on every process, ``rank`` this one's own. Every process must ask; the first one
        writes. Raises CheckpointError, also for the one before."""
        start = time.perf_counter()
        weights = self.weights(accelerator, model)
        held: Any = optimizer
        if accelerator.distributed_type == DistributedType.FSDP:
            moments: Any = get_optimizer_state_dict(model, held.optimizer, options=WHOLE)
        else:
            moments = held.optimizer.state_dict()
        ranks = gather_object([rank]) if accelerator.num_processes > 1 else [rank]
        if accelerator.is_main_process:
            made_by = {"format": FORMAT, "version": version("slm-train"), "identity": self.identity}
            self._write(made_by | state | {"ranks": ranks, "weights": weights, "optimizer": moments})
        self.seconds += time.perf_counter() - start

    def weights(self, accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
        """The trained ones, by name, on the first process. Every process must ask."""
        if accelerator.distributed_type == DistributedType.FSDP:
            sharded: dict[str, Any] = get_model_state_dict(model, options=WHOLE)
            return sharded
        if not accelerator.is_main_process:
            return {}
        return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def restore(
        self, accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> None:
        """Weights and optimizer as they were."""
        held: Any = optimizer
        if accelerator.distributed_type == DistributedType.FSDP:
            set_model_state_dict(model, state["weights"], options=WHOLE)
            set_optimizer_state_dict(model, held.optimizer, state["optimizer"], options=WHOLE)
            return
        load_weights(model, state["weights"])
        held.optimizer.load_state_dict(state["optimizer"])

    def wait(self) -> None:
        """Until the last one is on the disk. Raises what kept it from being written."""
        if self._thread:
            self._thread.join()
        self._thread, fault, self._fault = None, self._fault, None
        if fault:
            raise fault

    def account(self) -> dict[str, Any]:
        """For run.json."""
        return {"written": self.written, "bytes": self.bytes, "seconds": self.seconds}

    def _write(self, content: dict[str, Any]) -> None:
        self.wait()
        self.bytes = sum(leaf.nbytes for leaf in tree_leaves(content) if isinstance(leaf, Tensor))
        self.written += 1
        if self.bytes > SMALL:
            if self.written == 1:
                self.say(f"each checkpoint is {self.bytes / 1e9:.2f} GB; --checkpoint_interval N writes one in N steps")
            self._write_file(content)
            return
        copied = tree_map(
            lambda leaf: leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf, content
        )
        self._thread = threading.Thread(target=self._write_in_background, args=(copied,), name="checkpoint")
        self._thread.start()

    def _write_in_background(self, content: dict[str, Any]) -> None:
        try:
            self._write_file(content)
        except BaseException as fault:  # raised again by wait, in the thread that trains
            self._fault = fault

    def _write_file(self, content: dict[str, Any]) -> None:
        with writing_file(self.path) as aside:
            torch.save(content, aside)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The checkpoint in ``folder``, checked byte by byte, or None where there is none. Raises CheckpointError."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as held:
            # torch writes no attributes: one that is there would make it take a record for a folder, and read nothing
            marked = next((info.filename for info in held.infolist() if info.external_attr), None)
            damaged = marked or held.testzip()
        if damaged:
            raise CheckpointError(f"{path} is damaged at {damaged}; {_WAYS_OUT}")
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict) or "format" not in found:
            raise CheckpointError(f"{path} is no checkpoint of slm-train dynamic; {_WAYS_OUT}")
        if found["format"] != FORMAT:
            raise CheckpointError(f"{path} has the format {found['format']}, this slm-train reads {FORMAT}; update it")
    except _DAMAGE as fault:
        raise CheckpointError(f"{path} is cut short or no checkpoint; {_WAYS_OUT}") from fault
    except OSError as fault:
        raise CheckpointError(f"{path} cannot be read: {fault.strerror or fault}; {_WAYS_OUT}") from fault
    return found


# What zipfile and torch raise over bytes that they did not write.
_DAMAGE: tuple[type[Exception], ...] = (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)
_DAMAGE += (EOFError, LookupError, RuntimeError, TypeError, ValueError)
_WAYS_OUT = "put a copy of it back, or start afresh with --overwrite_output_dir"


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put ``weights`` into the parameters of their names. Raises CheckpointError for those of another model."""
    parameters = dict(model.named_parameters())
    for name, values in weights.items():
        if name not in parameters or parameters[name].shape != values.shape:
            raise CheckpointError(f"the checkpoint has {name} {list(values.shape)}, which this model has not")
    with torch.no_grad():
        for name, values in weights.items():
            parameters[name].copy_(values)


def random_state() -> dict[str, Any]:
    """Of Python, numpy, torch, and each GPU, as plain values and tensors."""
    kind, key, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(key, np.uint32).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    kind, key, *rest = state["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, held in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(held, device)
