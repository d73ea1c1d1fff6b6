"""Checkpoints of a GPU: copied beside the next step, complete before the optimizer changes what they copy."""

from __future__ import annotations

import threading
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from slm_testing.train.budget_runs import trainer_of
from slm_testing.train.tiny_runs import Tiny
from slm_train.checkpoints.step_checkpoint import StepCheckpoint
from slm_train.hardware.host_copies import CudaCopyQueue, HostCopies, Pairs
from slm_train.loop.budget_trainer import BudgetTrainer

CHECKPOINTS = 3


class LateQueue:
    """A CopyQueue of the CPU that copies as late as it may: when it is held, and the last time when it must."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.events: list[str] = []
        self._pending: Pairs = []
        self._held = threading.Event()

    def begin(self, pairs: Pairs) -> None:
        self._pending = pairs
        self._held.clear()
        self.events.append("begin")

    def hold(self) -> None:
        self.events.append("hold")
        self._copy()
        self._held.set()

    def wait(self) -> None:
        if self.events.count("begin") == CHECKPOINTS or not self._held.wait(10):
            self._copy()

    def held_seconds(self) -> float:
        return 0.5

    def _copy(self) -> None:
        pending, self._pending = self._pending, []
        for target, source in pending:
            target.copy_(source)


def state_of(trainer: BudgetTrainer) -> list[Tensor]:
    """Return copies of the trained weights and of the optimizer's moments."""
    weights = [parameter for parameter in trainer._unwrapped.parameters() if parameter.requires_grad]
    optimizer = trainer.optimizer.optimizer
    optimized = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = [optimizer.state[weight][name] for weight in optimized for name in ("exp_avg", "exp_avg_sq")]
    return [tensor.detach().clone() for tensor in (*weights, *moments)]


def test_a_checkpoint_is_the_state_after_its_step_although_it_is_copied_beside_the_next(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(StepCheckpoint, "_write_file", lambda _, content: written.append(deepcopy(content)))
    trainer = trainer_of(tiny, tmp_path, "--checkpoint_interval", "2", steps="5")
    queue, allocated = LateQueue(), []
    expected: list[list[Tensor]] = []

    def allocate(tensor: Tensor) -> Tensor:
        allocated.append(torch.zeros_like(tensor))
        return allocated[-1]

    class Copies(HostCopies):
        def begin(self, content: Any) -> Any:
            expected.append(state_of(trainer))
            return super().begin(content)

    trainer.checkpoint.copies = Copies(queue, allocate)
    trainer.create_optimizer().register_step_pre_hook(lambda *_: queue.events.append("update"))
    trainer.train()
    step = ["hold", "update"]
    assert queue.events == [*step, *step, "begin", *step, *step, "begin", *step, "begin"]
    assert len(written) == len(expected) == CHECKPOINTS
    for content, state in zip(written, expected, strict=True):
        states = content["optimizer"]["state"].values()
        moments = [moment[name] for moment in states for name in ("exp_avg", "exp_avg_sq")]
        pairs = zip([*content["weights"].values(), *moments], state, strict=True)
        assert all(torch.equal(tensor, copy) for tensor, copy in pairs)
    assert not torch.equal(expected[0][0], expected[1][0])
    tensors = [leaf for leaf in tree_leaves(written[0]) if isinstance(leaf, Tensor)]
    assert len(allocated) == len(tensors)  # and none for the second and the third
    assert trainer.checkpoint.seconds >= CHECKPOINTS * queue.held_seconds()


def test_copies_share_no_memory_and_a_tensor_of_another_shape_gets_a_buffer_of_its_own() -> None:
    queue = LateQueue()
    copies = HostCopies(queue, torch.empty_like)
    first = copies.begin({"a": torch.ones(3), "b": [torch.zeros(2, 2), "text"]})
    queue.hold()
    assert torch.equal(first["a"], torch.ones(3))
    assert first["b"][1] == "text"
    transposed = torch.arange(6.0).view(2, 3).t()
    second = copies.begin({"a": torch.full((3,), 2.0), "b": [transposed, "more"]})
    queue.hold()
    assert second["a"].data_ptr() == first["a"].data_ptr()
    assert second["b"][0].data_ptr() != first["b"][0].data_ptr()
    assert torch.equal(second["b"][0], transposed)
    assert second["b"][0].stride() == transposed.stride()


def test_on_cuda_the_copies_follow_the_work_before_them_and_the_work_after_hold_follows_the_copies() -> None:
    cuda, copied, reached = MagicMock(), MagicMock(), MagicMock()
    cuda.Event.side_effect = [copied, reached]
    training, copying = cuda.current_stream.return_value, cuda.Stream.return_value
    source, target = MagicMock(), MagicMock()
    calls = MagicMock()
    for name, mock in {"training": training, "copying": copying, "copied": copied, "reached": reached}.items():
        calls.attach_mock(mock, name)
    calls.attach_mock(target, "target")
    queue = CudaCopyQueue(torch.device("cuda", 0), cuda)
    queue.hold()
    assert calls.mock_calls == []  # nothing to wait for
    queue.begin([(target, source)])
    cuda.stream.assert_called_once_with(copying)
    queue.hold()
    queue.hold()  # the second step after a checkpoint
    assert [name for name, _, _ in calls.mock_calls] == [
        "copying.wait_stream",
        "target.copy_",
        "copied.record",
        "reached.record",
        "training.wait_event",
    ]
    target.copy_.assert_called_once_with(source, non_blocking=True)
    source.record_stream.assert_called_once_with(copying)
    copying.wait_stream.assert_called_once_with(training)
    training.wait_event.assert_called_once_with(copied)
    for milliseconds, expected in ((250.0, 0.25), (-3.0, 0.0)):  # copied after the work was done, or before
        reached.elapsed_time.return_value = milliseconds
        assert queue.held_seconds() == expected
    queue.wait()
    copied.synchronize.assert_called_once_with()
