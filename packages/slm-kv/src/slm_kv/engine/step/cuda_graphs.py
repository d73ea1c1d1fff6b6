"""Captures by CUDA graphs. Everything else about them is in ``graphed_decode``, which tests run on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
from torch import Tensor

from slm_kv.engine.step.graphed_decode import Capture, CudaGraphs, Recording
from slm_kv.errors import KVError


def require_cuda_graphs(cuda_graphs: str) -> None:
    """Raise KVError unless ``cuda_graphs`` is ``auto`` or ``off``."""
    if cuda_graphs not in get_args(CudaGraphs):
        raise KVError(f"cuda_graphs={cuda_graphs!r} is not one of {', '.join(get_args(CudaGraphs))}")


def select_capture(cuda_graphs: CudaGraphs, device: torch.device) -> Capture | None:
    """Return the function that captures steps on ``device``; None if steps are not captured."""
    return _cuda_capture(device) if cuda_graphs == "auto" and device.type == "cuda" else None


def _cuda_capture(device: torch.device) -> Capture:
    pool = torch.cuda.graph_pool_handle()  # of all captures: one runs at a time, and results are copied out at once

    def capture(function: Callable[[], Tensor]) -> Recording:
        with torch.cuda.device(device):
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                function()  # libraries allocate what they need on a stream, which must not happen in a capture
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads may use the device meanwhile, for example to attach an adapter.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                output = function()
        return Recording(graph.replay, output)

    return capture
