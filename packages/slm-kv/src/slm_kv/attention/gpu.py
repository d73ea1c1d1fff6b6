"""Paged attention on a GPU: decode rows by Triton kernels that read pages in place, prompt chunks by torch.

The decode rows need no synchronisation with the host, and what is launched depends on shapes only, so that a CUDA graph
can capture it.

Shapes: N rows of the step, S of them decode rows, P pages of the longest table, H heads, G heads of keys and values,
D dimensions of a head, J parts of the longest sequence.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from slm_kv.attention.gpu_kernels import decode_kernel, reduce_kernel
from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.prefill import AttendChunks, masked, together, unmasked
from slm_kv.attention.reference import Attend
from slm_kv.attention.step_batch import StepBatch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE_PRODUCTS = 2048  # Q * L * C
MAX_TILE_TOKENS = 128
REDUCED_PARTS = 16  # parts in a tile of reduce_kernel
PART_TOKENS = 512  # as in vLLM's second version of paged attention
MAX_PARTS = 64  # bounds the memory of partial results
IS_AMD = torch.version.hip is not None
# Registers of a thread: four blocks fit on a multiprocessor. Without the limit, ptxas spills two registers of some
# kernels to reach a smaller number. AMD's compiler has no such option.
LAUNCH_OPTIONS = {} if IS_AMD else {"maxnreg": 128}
UNLIMITED = 2**31 - 1  # the window of a layer without one


def attend(
    query_NHD: Tensor,
    key_NGD: Tensor,
    value_NGD: Tensor,
    layer: int,
    batch: StepBatch,
    options: LayerAttention,
    *,
    attend_chunks: AttendChunks = unmasked,
) -> Tensor:
    """Store the step's keys and values, then attend. Returns [N, H, D]."""
    storage, rows = batch.storage, batch.decode_rows
    write(key_NGD, storage.keys[layer], batch.slots)
    write(value_NGD, storage.values[layer], batch.slots)
    out_NHD = torch.empty_like(query_NHD, memory_format=torch.contiguous_format)
    if rows:
        decode(query_NHD[:rows], layer, batch, options, out_NHD[:rows])
    attend_chunks(query_NHD, key_NGD, value_NGD, layer, batch, options, out_NHD)
    return out_NHD


def write(rows_NGD: Tensor, pages_PSGD: Tensor, slots: Tensor) -> None:
    """Write each row to its slot of the pages."""
    pages_PSGD.flatten(0, 1).index_copy_(0, slots, rows_NGD)


def decode(query_SHD: Tensor, layer: int, batch: StepBatch, options: LayerAttention, out_SHD: Tensor) -> None:
    """Write the attention of the decode rows, each over its own pages, to the contiguous ``out_SHD``."""
    keys_PSGD, values_PSGD = batch.storage.keys[layer], batch.storage.values[layer]
    (rows, heads, dim), groups = query_SHD.shape, keys_PSGD.shape[2]
    group_size = heads // groups
    padded_group_size, padded_dim, tile_tokens = tile_sizes(group_size, dim, IS_AMD)
    window = options.window or UNLIMITED
    parts = max_parts(batch.decode_pages.shape[1] * batch.storage.page_size, window)
    partial_acc = query_SHD.new_empty(rows, heads, parts, dim, dtype=torch.float32)
    partial_max, partial_sum = (query_SHD.new_empty(rows, heads, parts, dtype=torch.float32) for _ in range(2))
    with torch.cuda.device_of(query_SHD):  # Triton launches on the current device, not on the tensors'
        decode_kernel[(rows, groups, parts)](
            query_SHD,
            keys_PSGD,
            values_PSGD,
            out_SHD,
            partial_acc,
            partial_max,
            partial_sum,
            batch.decode_pages,
            batch.decode_lengths,
            query_SHD if options.sinks is None else options.sinks.contiguous(),
            options.scale,
            options.softcap or 0.0,
            window,
            *query_SHD.stride(),
            batch.decode_pages.stride(0),
            keys_PSGD.stride(1),
            GROUP_SIZE=group_size,
            DIM=dim,
            PAGE_SIZE=batch.storage.page_size,
            HAS_SOFTCAP=options.softcap is not None,
            HAS_SINKS=options.sinks is not None,
            PART_TOKENS=PART_TOKENS,
            Q=padded_group_size,
            C=padded_dim,
            L=tile_tokens,
            M=MAX_PARTS,
            **LAUNCH_OPTIONS,
        )
        if parts > 1:
            reduce_kernel[(rows, heads)](
                partial_acc,
                partial_max,
                partial_sum,
                out_SHD,
                batch.decode_lengths,
                window,
                parts,
                DIM=dim,
                PART_TOKENS=PART_TOKENS,
                C=padded_dim,
                M=MAX_PARTS,
                TILE=REDUCED_PARTS,
                **LAUNCH_OPTIONS,
            )


def tile_sizes(group_size: int, dim: int, is_amd: bool) -> tuple[int, int, int]:
    """The sizes Q, C and L of a tile (see gpu_kernels) for heads of ``dim`` that share keys by ``group_size``."""
    # For AMD, Triton 3.7.1 fails to compile some kernels with Q = 1 ("failed to translate module to LLVM IR").
    queries, dims = max(2 if is_amd else 1, next_power_of_2(group_size)), next_power_of_2(dim)
    return queries, dims, min(MAX_TILE_TOKENS, max(1, TILE_PRODUCTS // (queries * dims)))


def max_parts(table_tokens: int, window: int) -> int:
    """The largest number of parts of a sequence in a table for ``table_tokens``."""
    return min(MAX_PARTS, cdiv(min(table_tokens, window), PART_TOKENS))


def varlen_attn(*args: Any, **options: Any) -> Any:
    """Call torch's function, which not every version of torch has."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(*args, **options)


# The fastest first. Which of them a GPU and a version of torch support shows when they are tried.
VARIANTS: dict[str, Attend] = {
    "Triton kernels, prompts together by flash attention": partial(
        attend, attend_chunks=partial(together, varlen_attn=varlen_attn)
    ),
    "Triton kernels, prompts one by one by torch's attention without a mask": attend,
    "Triton kernels, prompts one by one by torch's attention": partial(attend, attend_chunks=masked),
}
