"""Random steps of paged attention, and the attention that they should have, computed densely in float64.

Shapes: N rows of a step, L tokens of a sequence, H heads, G heads of keys and values, D dimensions of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slm_kv.attention.layer_attention import LayerAttention
from slm_kv.attention.step_batch import Chunk, StepBatch
from slm_kv.pages.storage import LayerShape, PagedStorage


@dataclass(frozen=True)
class RandomStep:
    """A step's input, and the keys and values [L, G, D] of each of its sequences, whose last rows are the step's."""

    query_NHD: Tensor
    key_NGD: Tensor
    value_NGD: Tensor
    batch: StepBatch
    sequences: list[tuple[int, Tensor, Tensor]]  # rows of the step, keys, values


def random_step(
    lengths: Sequence[int],
    chunks: Sequence[tuple[int, int]],
    shape: tuple[int, int, int],
    page_size: int,
    dtype: torch.dtype,
    window: int | None = None,
    device: str = "cpu",
) -> RandomStep:
    """Make a step of decode rows, which attend to ``lengths`` tokens, and of ``chunks``: (past tokens, rows).

    All slots but those that a row attends to are NaN, so that the output is NaN if another one is read.
    """
    heads, groups, dim = shape
    spans = [(length - 1, 1) for length in lengths] + list(chunks)
    counts = [-(-(past + rows) // page_size) for past, rows in spans]
    tables = torch.randperm(sum(counts) + 2)[: sum(counts)].split(counts)
    storage = PagedStorage([LayerShape(groups, dim)], sum(counts) + 2, page_size, dtype, torch.device(device))
    for tensor in storage.keys + storage.values:
        tensor.fill_(torch.nan)
    sequences, slots = [], []
    for (past, rows), table in zip(spans, tables, strict=True):
        keys, values = (torch.randn(past + rows, groups, dim).to(device, dtype) for _ in range(2))
        tokens = torch.arange(past + rows)
        own_slots = (table[tokens // page_size] * page_size + tokens % page_size).to(device)
        first = 0 if window is None else max(0, past + 1 - window)
        for pages, stored in ((storage.keys[0], keys), (storage.values[0], values)):
            pages.flatten(0, 1)[own_slots[first:past]] = stored[first:past]
        sequences.append((rows, keys, values))
        slots.append(own_slots[past:])
    rows_before = len(lengths)
    step_chunks = []
    for (past, rows), table in zip(chunks, tables[len(lengths) :], strict=True):
        step_chunks.append(Chunk(rows_before, rows_before + rows, past, table.numpy(), table.to(device)))
        rows_before += rows
    decode_pages = torch.zeros(len(lengths), max(counts), dtype=torch.int32)
    for row, table in enumerate(tables[: len(lengths)]):
        decode_pages[row, : len(table)] = table
    decode_lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
    batch = StepBatch(storage, torch.cat(slots), decode_pages.to(device), decode_lengths, tuple(step_chunks))
    query = torch.randn(heads, rows_before, dim).to(device, dtype).transpose(0, 1)  # not contiguous, as in a model
    key = torch.cat([keys[-rows:] for rows, keys, _ in sequences])
    value = torch.cat([values[-rows:] for rows, _, values in sequences])
    return RandomStep(query, key, value, batch, sequences)


def dense_attention(step: RandomStep, options: LayerAttention) -> Tensor:
    """Compute the attention of ``step`` in float64, [N, H, D], one row and head at a time."""
    out_NHD = torch.empty(step.query_NHD.shape, dtype=torch.float64)
    heads, row = out_NHD.shape[1], 0
    for rows, keys_LGD, values_LGD in step.sequences:
        keys_LGD, values_LGD = keys_LGD.cpu().double(), values_LGD.cpu().double()
        for position in range(len(keys_LGD) - rows, len(keys_LGD)):
            first = 0 if options.window is None else max(0, position - options.window + 1)
            for head in range(heads):
                group = head * keys_LGD.shape[1] // heads
                seen = slice(first, position + 1)
                scores = keys_LGD[seen, group] @ step.query_NHD[row, head].cpu().double() * options.scale
                if options.softcap is not None:
                    scores = options.softcap * torch.tanh(scores / options.softcap)
                weights = scores.exp()
                sink = 0 if options.sinks is None else options.sinks[head].cpu().double().exp()
                out_NHD[row, head] = weights @ values_LGD[seen, group] / (weights.sum() + sink)
            row += 1
    return out_NHD
