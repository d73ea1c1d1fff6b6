"""Running the model: from a step's plan to logits, with one call for the rows of each adapter.

Shapes: N rows of one call, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from slm_kv.attention.backends import attention_of
from slm_kv.attention.interface import AttentionStep, attention_step
from slm_kv.attention.probe import AttentionProbe
from slm_kv.engine.adapters import Adapters, ModelCall
from slm_kv.engine.embeddings import last_hidden_states
from slm_kv.engine.scheduler import Work
from slm_kv.engine.step.cuda_graphs import select_capture
from slm_kv.engine.step.graphed_decode import CudaGraphs, GraphedDecode
from slm_kv.engine.step.step_inputs import slots_of, sort_rows, step_inputs, to_device
from slm_kv.pages.storage import PagedStorage
from slm_kv.peft_models import base_model

if TYPE_CHECKING:  # numba may not be installed
    from slm_kv.decode_step.adapter import Adapter
    from slm_kv.decode_step.step import DecodeStep


class ModelRunner:
    """Runs models on the pages of one storage.

    Args:
        model: One of the models, without its PeftModel wrapper.
        adapters: The models with their adapters.
        storage: The pages.
        probe: What the layers require of attention.
        step: The base model's compiled decode step on these pages; None for none.

    Attributes:
        graphs: Runs decode steps of fixed shapes; None runs none so.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        adapters: Adapters,
        storage: PagedStorage,
        probe: AttentionProbe,
        step: DecodeStep | None = None,
    ) -> None:
        self.adapters, self.storage, self.step = adapters, storage, step
        self.attention = attention_of(probe, storage.page_size)
        self._attend = self.attention.attend
        self.graphs: GraphedDecode | None = None
        self._asks_for_graphs = False
        self._supports_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters

    def use_graphs(self, cuda_graphs: CudaGraphs, max_rows: int) -> None:
        """Capture decode steps of at most ``max_rows`` rows, if ``cuda_graphs`` and the device allow it."""
        device, self._asks_for_graphs = self.storage.device, cuda_graphs == "auto"
        if capture := select_capture(cuda_graphs, device):
            self.graphs = GraphedDecode(self.storage, self._attend, capture, max_rows, self.adapters.default)

    def forget_graphs(self) -> None:
        """Capture again, after weights or adapters have changed."""
        if self.graphs is not None:
            self.graphs.clear()

    @property
    def graphs_summary(self) -> str:
        """A line for the engine's summary, if graphs were asked for."""
        if not self._asks_for_graphs:
            return ""
        return f"\ncuda graphs: {self.graphs.summary if self.graphs else f'none on a {self.storage.device.type}'}"

    @torch.inference_mode()
    def run(self, work: tuple[Work, ...]) -> Iterator[tuple[list[Work], list[Tensor]]]:
        """Compute the rows of ``work``.

        Yields:
            For each call of a model, its work and the logits of each item: [1, V] for the last row; all rows if
            it has a draft or logprobs of the prompt are requested; those from the context's last token on for scores;
            [0, V] for a chunk that ends before.
        """
        compiled, others = _split_work(self.step, work)
        if self.step is not None and compiled:
            yield list(compiled), self._run_step(self.step, compiled)
        with closing(self.adapters.calls(others)) as calls:  # closing it restores the adapters after an error
            for call in calls:
                yield call.work, self._run_call(call)

    @torch.inference_mode()
    def run_hidden(self, work: tuple[Work, ...]) -> Iterator[tuple[list[Work], list[Tensor]]]:
        """Compute the rows of ``work``.

        Yields:
            For each call of a model, its work and the last hidden states of each item, [count, D].
        """
        with closing(self.adapters.calls(work, mix=False)) as calls:
            for call in calls:
                inputs = step_inputs(sort_rows(call.work), self.storage)
                ids, positions = inputs.token_ids[None], inputs.positions[None]
                with attention_step(AttentionStep(inputs.batch, self._attend)):
                    hidden_ND = last_hidden_states(base_model(call.model), ids, position_ids=positions)
                yield call.work, list(hidden_ND.split([item.count for item in call.work]))

    def set_step_adapters(self, adapters: Mapping[str, Adapter]) -> None:
        """Tell the compiled step, if there is one, which adapters rows can have."""
        if self.step is not None:
            self.step.adapters = adapters

    def nan_keys(self, work: Sequence[Work]) -> Tensor:
        """Return [N]: whether each row of ``work``, which has been computed, has a NaN key. Waits for nothing.

        A NaN in any layer's key or value makes the outputs of this layer NaN, and with them the last layer's keys.
        """
        slots = [slots_of(item, self.storage.page_size) for item in work]
        keys_NGD = self.storage.keys[-1].flatten(0, 1)[to_device(slots, self.storage.device).long()]
        return keys_NGD.isnan().flatten(1).any(1)

    def _run_step(self, step: DecodeStep, work: tuple[Work, ...]) -> list[Tensor]:
        rows = [
            step.rows(item.token_ids, item.sequence.position, item.sequence.block_table, item.sequence.handle.adapter)
            for item in work
        ]
        keep, counts = _rows_with_logits(list(work))
        return list(step.run(rows)[keep].split(counts))

    def _run_call(self, call: ModelCall) -> list[Tensor]:
        names, work = call.row_adapters, sort_rows(call.work)
        keep, counts = _rows_with_logits(work)
        if self.graphs is not None and len(keep) == sum(item.count for item in work):
            graphed_NV = self.graphs.run(call, work)
            if graphed_NV is not None:
                return list(graphed_NV.split(counts))
        inputs = step_inputs(work, self.storage, keep)
        keep_all = bool(names) or len(keep) == len(inputs.token_ids)
        shape = (-1, 1) if names else (1, -1)  # PEFT chooses the adapter by batch entry
        logits_NV = self._logits(
            call.model,
            inputs.token_ids.view(shape),
            inputs.positions.view(shape),
            None if keep_all else inputs.keep,
            AttentionStep(inputs.batch, self._attend),
            {"adapter_names": names} if names else {},
        )
        return list(logits_NV.split(counts))

    def _logits(
        self,
        model: Any,
        ids: Tensor,
        positions: Tensor,
        keep: Tensor | None,
        step: AttentionStep,
        options: dict[str, Any],
    ) -> Tensor:
        if keep is not None and self._supports_logits_to_keep:
            options = {**options, "logits_to_keep": keep}  # the head is computed for these rows only
        with attention_step(step):
            logits = model(ids, position_ids=positions, use_cache=False, **options).logits
        logits_NV = logits.flatten(0, 1)
        return logits_NV if keep is None or self._supports_logits_to_keep else logits_NV[keep]


def _split_work(step: DecodeStep | None, work: tuple[Work, ...]) -> tuple[tuple[Work, ...], tuple[Work, ...]]:
    """The work of a compiled step, none if it has too many rows, and the rest, whose adapters it does not compute."""
    if step is None:
        return (), work
    known = {None, *step.adapters}
    compiled = tuple(item for item in work if item.sequence.handle.adapter in known)
    if sum(item.count for item in compiled) > step.max_rows:
        return (), work
    return compiled, tuple(item for item in work if item not in compiled) if len(compiled) < len(work) else ()


def _rows_with_logits(work: list[Work]) -> tuple[list[int], list[int]]:
    """The rows whose logits are needed, and how many of them each item of work has."""
    keep: list[int] = []
    counts: list[int] = []
    first = 0
    for item in work:
        end = first + item.count
        first_needed = first if item.draft else first + item.sequence.first_logits_row(item.count)
        rows = range(first_needed, end) if item.needs_logits else range(0)
        keep += rows
        counts.append(len(rows))
        first = end
    return keep, counts
