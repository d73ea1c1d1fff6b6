"""A paged cache for transformers' ``model.generate(..., past_key_values=PagedCache(...))``.

Shapes: B rows of a batch, T new tokens, L tokens so far, G heads of keys and values, D dimensions of a head,
P pages, S slots in a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from slm_kv.errors import KVError
from slm_kv.pages.block_table import BlockTable
from slm_kv.pages.pool import PagePool
from slm_kv.pages.storage import LayerShape, PagedStorage


class PagedCache(Cache):
    """Keys and values in ``max_pages`` pages of ``page_size`` tokens, allocated at the first token; never grows.

    The rows of a batch get equal shares. Without beams each row is a run of neighbouring pages, which attention reads
    in place. After a beam search has forked rows, their common pages are stored once, and gathered for attention.

    ``generate`` raises PoolFull when no page is free for a token.
    """

    def __init__(self, page_size: int = 16, max_pages: int = 256) -> None:
        # ``generate`` reuses a cache by passing the object, never by token ids: there is no prefix to look up.
        self.rows = _BatchRows(PagePool(page_size, max_pages, prefix_caching=False))
        super().__init__(layers=[])

    @property
    def pool(self) -> PagePool:
        """The allocator of the pages."""
        return self.rows.pool

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values [B, G, T, D]; return all of the layer's [B, G, L + T, D].

        Raises:
            KVError: keys and values differ in shape (multi-head latent attention).
        """
        if key_states.shape != value_states.shape:
            raise KVError(
                f"PagedCache needs keys and values of one shape and layer {layer_idx} has keys of "
                f"{key_states.shape[-1]} and values of {value_states.shape[-1]} numbers; use transformers' own cache"
            )
        while len(self.layers) <= layer_idx:
            self.layers.append(_PagedLayer(self.rows, len(self.layers)))
        return cast(_PagedLayer, self.layers[layer_idx]).update(key_states, value_states)

    def update_conv_state(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse the state of a convolution, which a hybrid model would store."""
        raise _no_state("a convolution")

    def update_recurrent_state(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse the state of a recurrent layer, which a hybrid model would store."""
        raise _no_state("a recurrent layer")

    def has_previous_state(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse to look for such a state."""
        raise _no_state("a convolution or recurrent layer")

    def update_indexer(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse the keys of an indexer (sparse attention)."""
        raise _no_state("an indexer")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Continue row b from row ``beam_idx[b]``, sharing its pages."""
        self.rows.select(beam_idx.tolist())

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows."""
        self.rows.select(torch.arange(len(self.rows.tables))[indices.cpu()].tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times, sharing its pages."""
        self.rows.select([row for row in range(len(self.rows.tables)) for _ in range(repeats)])

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last ``-tokens_to_remove`` tokens; a positive number is the length to keep instead."""
        length = self.rows.length + tokens_to_remove if tokens_to_remove < 0 else tokens_to_remove
        self.rows.truncate(max(0, min(length, self.rows.length)) if tokens_to_remove else self.rows.length)

    def reset(self) -> None:
        """Remove all tokens; the memory stays allocated."""
        self.rows.release()


def _no_state(owner: str) -> KVError:
    return KVError(
        f"PagedCache holds keys and values only and the model has the state of {owner}; use transformers' own cache"
    )


class _BatchRows:
    """The block tables of a batch's rows, the storage of each layer, and how many tokens each layer has stored."""

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.tables: list[BlockTable] = []
        self.length = 0
        self.stored_tokens: dict[int, int] = {}  # by layer
        self._storages: dict[int, PagedStorage] = {}
        self._run: range | None = None  # the pages of all rows, if they are consecutive and equally many for each row

    def begin(self, batch: int) -> None:
        """Open a table for each row, with an equal number of consecutive pages."""
        pages_per_row = self.pool.free_pages // batch
        if pages_per_row == 0:
            raise KVError(f"max_pages={self.pool.max_pages} is less than one page for each of {batch} rows; give more")
        self.tables = [self.pool.open() for _ in range(batch)]
        for table in self.tables:
            self.pool.reserve(table, pages_per_row * self.pool.page_size)

    def reserve(self, tokens: int) -> None:
        """Allocate slots for ``tokens`` more tokens in each row, in pages that no other row writes to."""
        copies = [copy for table in self.tables for copy in self.pool.reserve(table, tokens)]
        for storage in self._storages.values():
            for copy in copies:
                storage.copy(copy.source, copy.target)
        for table in self.tables:
            self.pool.commit(table, [0] * tokens)  # the ids do not matter: prefix caching is off
        self.length += tokens
        self._run = self._find_run()

    def storage(self, layer: int, key_BGTD: Tensor) -> PagedStorage:
        """The layer's pages, allocated with its first keys, which determine shape, dtype and device."""
        if layer not in self._storages:
            shape = LayerShape(key_BGTD.shape[1], key_BGTD.shape[3])
            self._storages[layer] = PagedStorage(
                [shape], self.pool.max_pages, self.pool.page_size, key_BGTD.dtype, key_BGTD.device
            )
        return self._storages[layer]

    def write(self, pages_PSGD: Tensor, new_BGTD: Tensor, first: int) -> None:
        """Write the tokens from ``first`` on of all rows to their slots."""
        tokens_T = torch.arange(first, first + new_BGTD.shape[2], device=new_BGTD.device)
        pages_BT = self._pages(new_BGTD.device)[:, tokens_T // self.pool.page_size]
        pages_PSGD[pages_BT, tokens_T % self.pool.page_size] = new_BGTD.transpose(1, 2)

    def read(self, pages_PSGD: Tensor) -> Tensor:
        """All tokens of all rows, [B, G, L, D]: a view if the pages are consecutive, else a copy."""
        if self._run is not None:
            used_PSGD = pages_PSGD[self._run.start : self._run.stop]
        else:
            used_PSGD = pages_PSGD[self._pages(pages_PSGD.device)]
        used_BLGD = used_PSGD.view(len(self.tables), -1, *pages_PSGD.shape[2:])
        return used_BLGD[:, : self.length].transpose(1, 2)

    def select(self, rows: Sequence[int]) -> None:
        """Replace row i by a fork of row ``rows[i]``."""
        if list(rows) == list(range(len(self.tables))):
            return
        self.truncate(self.length)
        forked = [self.pool.fork(self.tables[row]) for row in rows]
        for table in self.tables:
            self.pool.release(table)
        self.tables = forked

    def truncate(self, length: int) -> None:
        """Remove the tokens after the first ``length`` and release the pages after theirs."""
        for table in self.tables:
            self.pool.truncate(table, length)
        self.length = length
        self.stored_tokens = dict.fromkeys(self.stored_tokens, length)

    def release(self) -> None:
        """Remove all tokens and release all pages."""
        for table in self.tables:
            self.pool.release(table)
        self.tables, self.length, self.stored_tokens = [], 0, {}

    def _pages(self, device: torch.device) -> Tensor:
        used = self.pool.pages_for(self.length)
        return torch.tensor([table.pages[:used] for table in self.tables], device=device)

    def _find_run(self) -> range | None:
        pages = [page for table in self.tables for page in table.pages]
        equally_many = len({len(table.pages) for table in self.tables}) == 1
        run = range(pages[0], pages[0] + len(pages))
        return run if equally_many and pages == list(run) else None


class _PagedLayer(CacheLayerMixin):
    """One layer of a PagedCache."""

    is_croppable = True
    is_sliding = False

    def __init__(self, rows: _BatchRows, index: int) -> None:
        super().__init__()
        self._rows, self._index = rows, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: ``_BatchRows.storage`` allocates the pages."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        rows, first = self._rows, self.get_seq_length()
        if not rows.tables:
            rows.begin(key_states.shape[0])
        storage = rows.storage(self._index, key_states)
        if first == rows.length:  # the first layer of this forward pass
            rows.reserve(key_states.shape[2])
        rows.write(storage.keys[0], key_states, first)
        rows.write(storage.values[0], value_states, first)
        rows.stored_tokens[self._index] = rows.length
        return rows.read(storage.keys[0]), rows.read(storage.values[0])

    def get_seq_length(self) -> int:
        return self._rows.stored_tokens.get(self._index, 0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1
