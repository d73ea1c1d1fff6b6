"""Known texts run through the engine's model runner, on pages of their own.

Shapes: T tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Sequence as Ids
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel

from slm_kv.attention.probe import AttentionProbe
from slm_kv.engine.adapters import Adapters
from slm_kv.engine.requests import Handle
from slm_kv.engine.scheduler import Work
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.step.model_runner import ModelRunner
from slm_kv.engine.text_stream import TextStream
from slm_kv.pages.pool import PagePool
from slm_kv.pages.storage import PagedStorage
from slm_kv.peft_models import base_model, without_adapters
from slm_kv.sampling.params import SamplingParams
from slm_kv.sampling.sampler import TokenSampler

if TYPE_CHECKING:  # numba may not be installed
    from slm_kv.decode_step.step import DecodeStep

LAST_LOGITS = SamplingParams(seed=0)
ALL_LOGITS = SamplingParams(seed=0, prompt_logprobs=0)


class Trial:
    """Runs chosen rows of known texts and returns their logits.

    Args:
        model: One of the models.
        adapters: The models with their adapters.
        probe: What the layers require.
        page_size: Tokens in a page.
        tokens: The number of tokens of all texts together.
        texts: The number of texts.
    """

    def __init__(
        self, model: PreTrainedModel, adapters: Adapters, probe: AttentionProbe, page_size: int, tokens: int, texts: int
    ) -> None:
        pages = -(-tokens // page_size) + texts  # the last page of each text may be almost empty
        self._pool = PagePool(page_size, pages, prefix_caching=False, window=probe.window)
        self.storage = PagedStorage(probe.shapes, pages, page_size, probe.dtype, probe.device)
        self._runner = ModelRunner(base_model(model), adapters, self.storage, probe)
        embedding: Any = without_adapters(model.get_input_embeddings())
        self._vocabulary = embedding.num_embeddings

    @contextmanager
    def stepping(self, step: DecodeStep | None) -> Generator[None]:
        """Return a context in which rows are computed by a compiled step on ``storage``."""
        self._runner.step = step
        try:
            yield
        finally:
            self._runner.step = None

    def open(self, token_ids: Ids[int], adapter: str | None, *, position: int = 0, all_logits: bool = True) -> Sequence:
        """Begin a text whose first token is at ``position``. Without ``all_logits``, steps return their last row's."""
        params = ALL_LOGITS if all_logits else LAST_LOGITS
        handle = Handle(0, tuple(token_ids), params, adapter)
        sampler = TokenSampler(params, token_ids, self._vocabulary)
        sequence = Sequence(handle, sampler, TextStream(None, (), token_ids), b"")
        sequence.dropped, sequence.context_start = position, -position
        sequence.start(self._pool.open())
        return sequence

    def run(self, *rows: tuple[Sequence, int]) -> list[Tensor]:
        """Compute the next ``count`` tokens of each text in one step, and return each one's logits [count, V]."""
        work = []
        for sequence, count in rows:
            self._pool.release_unseen(sequence.block_table)
            self._pool.reserve(sequence.block_table, count)
            work.append(Work(sequence, count, samples=True))
        logits = {
            id(item.sequence): logits_TV
            for items, all_logits in self._runner.run(tuple(work))
            for item, logits_TV in zip(items, all_logits, strict=True)
        }
        for sequence, count in rows:
            self._pool.commit(sequence.block_table, sequence.next_ids(count))
        return [logits[id(sequence)] for sequence, _ in rows]
