"""Attention over pages against dense attention in float64, and sampling on the device against the host's."""

from __future__ import annotations

from typing import Any

import torch

from gpu_checks.engine_features import attention_name
from gpu_checks.recorder import Recorder
from slm_kv import LayerAttention, SamplingParams, select_attention
from slm_testing.kv.paged_steps import dense_attention, random_step
from slm_testing.kv.sampled_on_device import sample_on_both

TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
PAGE_SIZES = (16, 3)
COLUMNS = ("heads", "key heads", "dim", "dtype", "largest error", "computed by")
SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 40},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.9, "top_k": 50, "top_p": 0.8, "min_p": 0.01},
)
SAMPLED_ROWS = 16  # of each of these settings


def run(recorder: Recorder) -> None:
    """Compare all shapes in all dtypes, then sampled tokens."""
    rows = []
    for dtype, tolerance in TOLERANCES.items():
        errors = {shape: attention_error(recorder, shape, dtype) for shape in recorder.sizes.heads}
        name = attention_name(recorder.device, dtype)
        rows += [[*shape, str(dtype)[6:], error, name] for shape, error in errors.items()]
        recorder.table("Attention over pages", COLUMNS, rows)
        recorder.claim(str(dtype)[6:], max(errors.values()) <= tolerance, f"{max(errors.values()):.1g}")
    differing, total = differing_tokens(recorder)
    recorder.claim("sampling", differing == 0, f"{total - differing} of {total} tokens are equal")


def attention_error(recorder: Recorder, shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    """Return the largest absolute error of an output; keys, values and queries are standard normal."""
    attend = select_attention(recorder.device, dtype)
    largest = 0.0
    for page_size in PAGE_SIZES:
        for options in _options(shape, dtype, recorder.device):
            torch.manual_seed(0)
            sizes = (recorder.sizes.lengths, recorder.sizes.chunks, shape, page_size, dtype, options.window)
            step = random_step(*sizes, device=str(recorder.device))
            out_NHD = attend(step.query_NHD, step.key_NGD, step.value_NGD, 0, step.batch, options)
            error = (out_NHD.cpu().double() - dense_attention(step, options)).abs().max()
            largest = float("nan") if error.isnan() else max(largest, float(error))
    return largest


def differing_tokens(recorder: Recorder) -> tuple[int, int]:
    """Return how many sampled tokens differ from the host's, and of how many."""
    settings = [SamplingParams(seed=seed, **options) for seed in range(SAMPLED_ROWS) for options in SAMPLING]
    generator = torch.Generator().manual_seed(0)
    logits_RV = 4 * torch.randn(len(settings), recorder.sizes.vocabulary, generator=generator)
    expected, actual = sample_on_both(logits_RV, settings, recorder.device)
    return sum(ours != theirs for ours, theirs in zip(actual, expected, strict=True)), len(settings)


def _options(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> list[LayerAttention]:
    heads, _, dim = shape
    sinks = torch.linspace(-2, 3, heads).to(device, dtype)
    return [LayerAttention(dim**-0.5), LayerAttention(dim**-0.5, window=7, softcap=30.0, sinks=sinks)]
