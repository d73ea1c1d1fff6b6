"""Copies of a GPU's tensors in the memory of the host, made while the GPU computes on.

The copies go into pinned memory on a stream of their own. They contain the tensors as the work that was queued before
them left them, if whoever changes the tensors in place calls ``hold`` first: what is queued after it waits for the
copies. In between the GPU copies and computes at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

Pairs = Sequence[tuple[Tensor, Tensor]]  # target on the host, source on the device


class CopyQueue(Protocol):
    """Copies tensors of ``device`` beside the work that is queued there."""

    device: torch.device

    def begin(self, pairs: Pairs) -> None:
        """Queue copies that begin when the work queued so far is done."""

    def hold(self) -> None:
        """Let work that is queued from now on wait for the copies."""

    def wait(self) -> None:
        """Block this thread until the copies are complete."""

    def held_seconds(self) -> float:
        """Return how long the device waited for the last copies; the device must have been synchronised since."""


class CudaCopyQueue:
    """A CopyQueue on a stream of its own. ``cuda`` is ``torch.cuda``, which tests replace."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda):
        self.device, self._cuda = device, cuda
        self._stream = cuda.Stream(device)
        self._copied = cuda.Event(enable_timing=True, blocking=True)  # blocking: a thread that waits leaves its core
        self._reached = cuda.Event(enable_timing=True)  # where the device would wait
        self._is_begun = self._is_held = False

    def begin(self, pairs: Pairs) -> None:
        self._stream.wait_stream(self._cuda.current_stream(self.device))
        with self._cuda.stream(self._stream):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
                source.record_stream(self._stream)  # its memory is not used again before it is copied
            self._copied.record(self._stream)
        self._is_begun, self._is_held = True, False

    def hold(self) -> None:
        if self._is_held or not self._is_begun:
            return
        training = self._cuda.current_stream(self.device)
        self._reached.record(training)
        training.wait_event(self._copied)
        self._is_held = True

    def wait(self) -> None:
        self._copied.synchronize()

    def held_seconds(self) -> float:
        if not self._is_held:
            return 0.0
        milliseconds: float = self._reached.elapsed_time(self._copied)
        return max(0.0, milliseconds / 1000)


def pinned_like(tensor: Tensor) -> Tensor:
    """Return an empty tensor in pinned memory of the host, of the shape, layout and type of ``tensor``."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True)


class HostCopies:
    """Copies trees of tensors into buffers on the host, which are used again for trees of the same shapes."""

    def __init__(self, queue: CopyQueue, allocate: Callable[[Tensor], Tensor] = pinned_like):
        self.queue, self._allocate = queue, allocate
        self._buffers: list[Tensor] = []

    def begin(self, content: Any) -> Any:
        """Return ``content`` with a copy in place of each tensor; those of the device are complete after ``wait``.

        The copies of the tree before must not be in use any more.
        """
        sources = [leaf.detach() for leaf in tree_leaves(content) if self._is_queued(leaf)]
        reusable = [*self._buffers, *[None] * (len(sources) - len(self._buffers))]
        self._buffers = [self._buffer(old, source) for old, source in zip(reusable, sources, strict=False)]
        self.queue.begin(list(zip(self._buffers, sources, strict=True)))
        buffers = iter(self._buffers)
        return tree_map(lambda leaf: next(buffers) if self._is_queued(leaf) else copied_to_host(leaf), content)

    def _is_queued(self, leaf: object) -> bool:
        return isinstance(leaf, Tensor) and leaf.device == self.queue.device

    def _buffer(self, old: Tensor | None, source: Tensor) -> Tensor:
        """Return ``old`` if a copy of ``source`` fits in it exactly, else a new buffer."""
        is_same = old is not None and _layout(old) == _layout(source)
        return old if old is not None and is_same else self._allocate(source)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype


def copied_to_host(leaf: Any) -> Any:
    """Return a copy of a tensor on the CPU, which shares no memory with it; and anything else as it is."""
    return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf
