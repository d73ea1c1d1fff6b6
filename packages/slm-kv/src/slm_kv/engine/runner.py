"""From a plan to logits: the model is called once for the rows of each adapter, on pages.

Shapes: N rows of one call, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from slm_kv.engine.adapters import Adapters
from slm_kv.attention.step_batch import Chunk, PagedStorage, StepBatch
from slm_kv.attention.interface import Step, attend_for
from slm_kv.engine.scheduler import Work


class Runner:
    """Runs the models of ``adapters`` over the pages of one storage. ``model``: one of them, without its adapters."""

    def __init__(self, model: PreTrainedModel, adapters: Adapters, storage: PagedStorage) -> None:
        self.adapters, self.storage = adapters, storage
        self._attend = attend_for(storage.device, storage.dtype)
        self._selects = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def run(self, work: tuple[Work, ...]) -> Iterator[tuple[list[Work], list[Tensor]]]:
        """Compute the rows of ``work``. Gives, for each call of the model, the work and its logits: a
        [rows, V] for each, the last row alone or, where logprobs of the prompt are asked for, all; [0, V] for a
        piece of a prompt that ends before its last token."""
        with closing(self.adapters.groups(work)) as groups:  # an adapter is set while its group is at hand
            for model, group, names in groups:
                yield group, self._call(model, group, names)

    def _call(self, model: Any, group: list[Work], names: list[str] | None) -> list[Tensor]:
        group.sort(key=lambda one: one.count > 1)  # decode rows come first; stable
        ids = [token for one in group for token in one.sequence.next_ids(one.count)]
        keep, counts = _rows_to_keep(group)
        shape = (len(ids), 1) if names else (1, len(ids))
        logits_NV = self._logits(
            model,
            self._tensor(ids).view(shape),
            self._tensor(_positions(group)).view(shape),
            None
            if names or len(keep) == len(ids)
            else torch.tensor(keep, dtype=torch.long, device=self.storage.device),
            Step(self._batch(group), self._attend),
            {"adapter_names": names} if names else {},
        )
        return list(logits_NV.split(counts))

    def _logits(
        self, model: Any, ids: Tensor, positions: Tensor, keep: Tensor | None, step: Step, names: dict[str, Any]
    ) -> Tensor:
        asked = {} if keep is None or not self._selects else {"logits_to_keep": keep}
        logits = model(ids, position_ids=positions, use_cache=False, paged=step, **asked, **names).logits
        logits_NV = logits.flatten(0, 1)
        return logits_NV if keep is None or self._selects else logits_NV[keep]

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.storage.device)

    def _batch(self, group: list[Work]) -> StepBatch:
        decoding = [one.sequence.held for one in group if one.count == 1]
        pages = np.zeros((len(decoding), max((len(table.pages) for table in decoding), default=0)), np.int32)
        for row, table in enumerate(decoding):
            pages[row, : len(table.pages)] = table.pages
        device = self.storage.device
        return StepBatch(
            self.storage,
            torch.from_numpy(np.concatenate([self._slots(one) for one in group])).to(device),
            torch.from_numpy(pages).to(device),
            torch.tensor([table.length + 1 for table in decoding], dtype=torch.int32, device=device),
            tuple(self._chunks(group, len(decoding))),
        )

    def _chunks(self, group: list[Work], first: int) -> Iterator[Chunk]:
        for one in group:
            if one.count > 1:
                table = one.sequence.held
                pages = torch.tensor(table.pages, device=self.storage.device)
                yield Chunk(first, first + one.count, table.length, pages)
                first += one.count

    def _slots(self, one: Work) -> np.ndarray:
        table, page_size = one.sequence.held, self.storage.page_size
        if one.count == 1:
            page, slot = divmod(table.length, page_size)
            return np.array([table.pages[page] * page_size + slot])
        places = np.arange(table.length, table.length + one.count)
        return np.array(table.pages)[places // page_size] * page_size + places % page_size


def _positions(group: list[Work]) -> list[int]:
    return [one.sequence.position + row for one in group for row in range(one.count)]


def _rows_to_keep(group: list[Work]) -> tuple[list[int], list[int]]:
    """Rows whose logits are wanted, and how many of them each piece of work has."""
    keep: list[int] = []
    counts: list[int] = []
    first = 0
    for one in group:
        last = first + one.count
        rows = range(first if one.sequence.wants_prompt_rows else last - 1, last) if one.wanted else range(0)
        keep += rows
        counts.append(len(rows))
        first = last
    return keep, counts
