"""Decode steps of fixed shapes, which are captured once and then replayed: one launch instead of one per operation.

A step's rows and the pages of its longest table are rounded up to a bucket. Its integers are written to a buffer that
stays at one place, and the rows that are too many write to a page of their own, which no sequence reads.

Shapes: N rows of a call, B rows of its bucket, W pages of the bucket's tables, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from slm_kv.attention.backends import Attend
from slm_kv.attention.interface import AttentionStep, attention_step
from slm_kv.attention.step_batch import StepBatch
from slm_kv.engine.adapters import ModelCall
from slm_kv.engine.scheduler import Work
from slm_kv.engine.step.step_inputs import decode_inputs, stage
from slm_kv.pages.storage import PagedStorage

CudaGraphs = Literal["auto", "off"]
MIN_PAGES = 8  # of a bucket: wider tables cost little, and fewer buckets are captured
VECTORS = 4  # token ids, positions, slots and lengths of the rows
MAX_ERROR = 1e-2  # of replayed logits, relative to the largest one; what a capture gets wrong is larger


class Recording(NamedTuple):
    """A captured function: ``replay`` computes it again from the tensors it reads, and writes to ``output``."""

    replay: Callable[[], None]
    output: Tensor


Capture = Callable[[Callable[[], Tensor]], Recording]


class Bucket(NamedTuple):
    """The shape of a captured step. Captures are of one adapter, or of the base (None)."""

    rows: int
    pages: int
    adapter: str | None


class GraphedDecode:
    """Runs the decode steps of the base and of one adapter; others are left to the caller.

    After ``weights_changed`` or a change of adapters, ``clear`` must be called: a capture reads the tensors that the
    model had.

    Args:
        storage: The pages, with a spare one.
        attend: The attention of the device, which must wait for nothing.
        capture: Captures a function.
        max_rows: The largest number of rows of a captured step.
        adapter: The adapter.

    Attributes:
        captured: The captured steps.
        replays: How often one was replayed.
        failure: Why nothing is captured any more, in words; None as long as captures are right.
    """

    def __init__(
        self, storage: PagedStorage, attend: Attend, capture: Capture, max_rows: int, adapter: str | None = None
    ) -> None:
        self._storage, self._attend, self._capture = storage, attend, capture
        self._max_rows, self._adapter = max_rows, adapter
        self._buffer = torch.zeros(max_rows * (VECTORS + storage.max_pages), dtype=torch.int32, device=storage.device)
        self.captured: dict[Bucket, Recording] = {}
        self.replays = 0
        self.failure: str | None = None

    @property
    def summary(self) -> str:
        """What is captured, or why nothing is, in one line."""
        if self.failure:
            return f"off, {self.failure}"
        return f"decode steps of up to {self._max_rows} rows, {len(self.captured)} captured so far"

    def clear(self) -> None:
        """Forget all captures."""
        self.captured.clear()

    def run(self, call: ModelCall, work: list[Work]) -> Tensor | None:
        """Compute the logits [N, V] of all rows of ``work``; None if they are not those of a step to capture."""
        bucket = self._bucket(call, work)
        if bucket is None:
            return None
        staged = stage(decode_inputs(work, self._storage, bucket.rows, bucket.pages), self._storage.device)
        self._buffer[: len(staged)].copy_(staged, non_blocking=True)
        rows = sum(item.count for item in work)
        if bucket not in self.captured:
            return self._record(call.model, bucket)[:rows]
        recording = self.captured[bucket]
        recording.replay()
        self.replays += 1
        return recording.output[:rows].clone()  # before another replay writes to it

    def _bucket(self, call: ModelCall, work: list[Work]) -> Bucket | None:
        adapter, rows = work[0].sequence.handle.adapter, sum(item.count for item in work)
        if self.failure or call.row_adapters is not None or rows > self._max_rows:
            return None
        if adapter not in (None, self._adapter) or not all(item.decodes for item in work):
            return None
        pages = max(len(item.sequence.block_table.pages) for item in work)
        width = min(self._storage.max_pages, max(MIN_PAGES, _next_power_of_2(pages)))
        return Bucket(min(self._max_rows, _next_power_of_2(rows)), width, adapter)

    def _record(self, model: Any, bucket: Bucket) -> Tensor:
        """Capture the step, and return the logits [B, V] of the inputs in the buffer, computed without the capture.

        The inputs are written to the buffer again before the capture is replayed, so that the replay computes other
        rows than were captured: numbers that the model reads on the host would be those of the capture.
        """
        function = self._function(model, bucket)
        expected = function().clone()
        inputs = self._buffer.clone()
        try:
            self._fill_with_padding(bucket)
            recording = self._capture(function)
            self._buffer.copy_(inputs)
            recording.replay()
            error = float((recording.output - expected).abs().nan_to_num(0).max() / expected.abs().nan_to_num(0).max())
        except RuntimeError as problem:  # for example an operation that waits for the device
            self.failure = str(problem).partition("\n")[0] or type(problem).__name__
            self.clear()
            return expected
        if error > MAX_ERROR:
            self.failure = f"replayed logits differ by {error:.2g} of the largest one"
            self.clear()
        else:
            self.captured[bucket] = recording
        return expected

    def _fill_with_padding(self, bucket: Bucket) -> None:
        staged = stage(decode_inputs([], self._storage, bucket.rows, bucket.pages), self._storage.device)
        self._buffer[: len(staged)].copy_(staged)

    def _function(self, model: Any, bucket: Bucket) -> Callable[[], Tensor]:
        """The forward pass of a bucket, which reads the buffer."""
        vectors = self._buffer[: VECTORS * bucket.rows].view(VECTORS, bucket.rows)
        tables = self._buffer[vectors.numel() : vectors.numel() + bucket.rows * bucket.pages]
        pages = tables.view(bucket.rows, bucket.pages)

        def forward() -> Tensor:
            token_ids, positions, slots = vectors[:3].long()
            batch = StepBatch(self._storage, slots, pages, vectors[3], ())
            with attention_step(AttentionStep(batch, self._attend)):
                output = model(token_ids[None], position_ids=positions[None], use_cache=False)
            logits_BV: Tensor = output.logits.flatten(0, 1)
            return logits_BV

        return forward


def _next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()
