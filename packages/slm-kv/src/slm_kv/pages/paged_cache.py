"""A paged cache for plain ``model.generate(..., past_key_values=PagedCache(...))`` of any causal model.

Shapes: B rows of a batch, T new tokens, L tokens so far, G heads of keys and values, D dimensions of a head,
P pages, S slots a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from slm_kv.attention.step_batch import LayerShape, PagedStorage
from slm_kv.errors import KVError
from slm_kv.pages.pool import BlockTable, PagePool


class PagedCache(Cache):
    """Keys and values in ``max_pages`` pages of ``page_size`` tokens, made at the first token and never grown.

    A batch shares them out evenly. As long as rows go their own ways, each is a run of neighbouring pages, and
    attention reads it in place; after a beam search has forked rows, their common pages are held once and gathered.
    Raises PoolFull, from within ``generate``, when a token finds no page.
    """

    def __init__(self, page_size: int = 16, max_pages: int = 256) -> None:
        self.rows = _Rows(PagePool(page_size, max_pages, prefix_caching=False))
        super().__init__(layers=[])

    @property
    def pool(self) -> PagePool:
        """Who holds which page."""
        return self.rows.pool

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store the new keys and values [B, G, T, D] of a layer; all of that layer's [B, G, L + T, D]."""
        while len(self.layers) <= layer_idx:
            self.layers.append(_PagedLayer(self.rows, len(self.layers)))
        return cast(_PagedLayer, self.layers[layer_idx]).update(key_states, value_states)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row b goes on from row ``beam_idx[b]``, sharing its pages."""
        self.rows.select(beam_idx.tolist())

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows alone."""
        self.rows.select(torch.arange(len(self.rows.tables))[indices.cpu()].tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row ``repeats`` times, sharing its pages."""
        self.rows.select([row for row in range(len(self.rows.tables)) for _ in range(repeats)])

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens; of a positive number, all past that many."""
        length = self.rows.length + tokens_to_remove if tokens_to_remove < 0 else tokens_to_remove
        self.rows.truncate(max(0, min(length, self.rows.length)) if tokens_to_remove else self.rows.length)

    def reset(self) -> None:
        """Forget everything; the pages stay."""
        self.rows.release()


class _Rows:
    """The block tables of a batch, one storage for all layers, and how many tokens each layer has stored."""

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.tables: list[BlockTable] = []
        self.length = 0
        self.stored: dict[int, int] = {}
        self._storages: dict[int, PagedStorage] = {}
        self._runs: range | None = None

    def begin(self, batch: int) -> None:
        """Open a table a row, each with an even share of the free pages, in a run."""
        share = self.pool.free_pages // batch
        if share == 0:
            raise KVError(f"max_pages={self.pool.max_pages} is less than a page for each of {batch} rows; give more")
        self.tables = [self.pool.open() for _ in range(batch)]
        for table in self.tables:
            self.pool.reserve(table, share * self.pool.page_size)

    def reserve(self, tokens: int) -> None:
        """Room for ``tokens`` more in each row, in pages that no other row writes to."""
        copies = [copy for table in self.tables for copy in self.pool.reserve(table, tokens)]
        for storage in self._storages.values():
            for copy in copies:
                storage.copy(copy.source, copy.target)
        for table in self.tables:
            self.pool.commit(table, [0] * tokens)  # no prefix is looked up: which tokens they are says nothing
        self.length += tokens
        self._runs = self._find_runs()

    def storage(self, layer: int, key_BGTD: Tensor) -> PagedStorage:
        """The layer's pages, made as its first key comes."""
        if layer not in self._storages:
            shape = LayerShape(key_BGTD.shape[1], key_BGTD.shape[3])
            self._storages[layer] = PagedStorage(
                [shape], self.pool.max_pages, self.pool.page_size, key_BGTD.dtype, key_BGTD.device
            )
        return self._storages[layer]

    def write(self, pages_PSGD: Tensor, new_BGTD: Tensor, first: int) -> None:
        """Put the tokens from ``first`` on of all rows into their slots."""
        places = torch.arange(first, first + new_BGTD.shape[2], device=new_BGTD.device)
        pages_BT = self._pages(new_BGTD.device)[:, places // self.pool.page_size]
        pages_PSGD[pages_BT, places % self.pool.page_size] = new_BGTD.transpose(1, 2)

    def read(self, pages_PSGD: Tensor) -> Tensor:
        """All tokens of all rows, [B, G, L, D]: a view where the rows are runs."""
        if self._runs is not None:
            found = pages_PSGD[self._runs.start : self._runs.stop]
        else:
            found = pages_PSGD[self._pages(pages_PSGD.device)]
        found_BLGD = found.view(len(self.tables), -1, *pages_PSGD.shape[2:])
        return found_BLGD[:, : self.length].transpose(1, 2)

    def select(self, rows: Sequence[int]) -> None:
        """Row i is from now on a fork of row ``rows[i]``."""
        if list(rows) == list(range(len(self.tables))):
            return
        self.truncate(self.length)
        forked = [self.pool.fork(self.tables[row]) for row in rows]
        for table in self.tables:
            self.pool.release(table)
        self.tables = forked

    def truncate(self, length: int) -> None:
        """Forget tokens past ``length``, and give back the pages that are not needed for those before."""
        for table in self.tables:
            self.pool.truncate(table, length)
        self.length = length
        self.stored = dict.fromkeys(self.stored, length)

    def release(self) -> None:
        for table in self.tables:
            self.pool.release(table)
        self.tables, self.length, self.stored = [], 0, {}

    def _pages(self, device: torch.device) -> Tensor:
        used = self.pool.pages_for(self.length)
        return torch.tensor([table.pages[:used] for table in self.tables], device=device)

    def _find_runs(self) -> range | None:
        """All rows' pages as one run, each row's as long as another's: None where they are not."""
        pages = [page for table in self.tables for page in table.pages]
        equal = len({len(table.pages) for table in self.tables}) == 1
        found = range(pages[0], pages[0] + len(pages))
        return found if equal and pages == list(found) else None


class _PagedLayer(CacheLayerMixin):
    """One layer's side of a PagedCache."""

    is_croppable = True
    is_sliding = False

    def __init__(self, rows: _Rows, index: int) -> None:
        super().__init__()
        self._rows, self._index = rows, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Pages are made as the first key comes."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        rows, first = self._rows, self.get_seq_length()
        if not rows.tables:
            rows.begin(key_states.shape[0])
        storage = rows.storage(self._index, key_states)
        if first == rows.length:  # the first layer of this pass
            rows.reserve(key_states.shape[2])
        rows.write(storage.keys[0], key_states, first)
        rows.write(storage.values[0], value_states, first)
        rows.stored[self._index] = rows.length
        return rows.read(storage.keys[0]), rows.read(storage.values[0])

    def get_seq_length(self) -> int:
        return self._rows.stored.get(self._index, 0)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1
