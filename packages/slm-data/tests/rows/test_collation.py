"""Batches: the contents of the tensors, and that packed documents do not attend to each other."""

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from slm_data.rows.collation import IGNORE_INDEX, RowCollator
from slm_data.rows.dataset import Row, RowDataset
from slm_data.rows.packing import plan_rows

VOCABULARY, PAD = 64, 63
DOCUMENTS = [9, 4, 13, 2, 24, 7, 30, 5, 3, 11, 1]  # tokens each; 30 is split at a block size of 24
BLOCK = 24


def gpt2(attention: str) -> PreTrainedModel:
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 32}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=VOCABULARY, initializer_range=0.2, bos_token_id=0, eos_token_id=1, **sizes, **off)
    config._attn_implementation = attention
    return GPT2LMHeadModel(config)


def grouped_heads(model: type[PreTrainedModel], config: type[Any]) -> Callable[[str], PreTrainedModel]:
    def build(attention: str) -> PreTrainedModel:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
        sizes = {"hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 32}
        made = config(vocab_size=VOCABULARY, initializer_range=0.2, **heads, **sizes)
        made._attn_implementation = attention
        return model(made)

    return build


BUILDERS = {
    "gpt2": gpt2,
    "llama": grouped_heads(LlamaForCausalLM, LlamaConfig),
    "qwen2": grouped_heads(Qwen2ForCausalLM, Qwen2Config),
}


@pytest.fixture(params=[(name, attention) for name in BUILDERS for attention in ("sdpa", "eager")], ids="-".join)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    name, attention = request.param
    torch.manual_seed(0)
    return BUILDERS[name](attention).float().eval()


def dataset(packing: Any) -> RowDataset:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, sum(DOCUMENTS)).astype(np.uint16)
    store: Any = SimpleNamespace(tokens=tokens, scored=None)
    return RowDataset(store, plan_rows(DOCUMENTS, BLOCK, packing, fill=0))


def batch_of(packing: Any) -> dict[str, torch.Tensor]:
    """All documents as one batch of several rows, some of them padded."""
    rows = dataset(packing)
    return RowCollator(PAD, packing == "best_fit")([rows[at] for at in range(len(rows))])


def segments_of(rows: RowDataset) -> list[tuple[int, slice, torch.Tensor]]:
    """Row number, position in the row, and tokens of every segment."""
    segments = []
    for number in range(len(rows)):
        row = rows[number]
        ends = np.cumsum(row.segments).tolist()
        for start, end in pairwise([0, *ends]):
            segments.append((number, slice(start, end), torch.from_numpy(row.input_ids[start:end])))
    return segments


def largest_difference(model: PreTrainedModel, **settings: Any) -> float:
    """The largest difference between the logits of packed documents and those of each document alone."""
    rows, batch = dataset("best_fit"), batch_of("best_fit")
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], **settings).logits
        alone = [(at, place, model(input_ids=ids[None]).logits[0]) for at, place, ids in segments_of(rows)]
    assert packed.std() > 0.3  # logits near zero would agree whatever the model attends to
    return max(float((packed[at, place] - logits).abs().max()) for at, place, logits in alone)


def test_the_batch_under_test_has_several_rows_segments_and_padding() -> None:
    plan, batch = dataset("best_fit").plan, batch_of("best_fit")
    assert len(plan) > 2
    assert (np.diff(plan.first) > 2).any()
    assert (batch["input_ids"].shape[1] > plan.row_lengths).any()


def test_packed_logits_are_those_of_each_document_alone(model: PreTrainedModel) -> None:
    assert largest_difference(model, use_cache=False) < 1e-5


def test_a_cache_lets_packed_documents_see_each_other(model: PreTrainedModel) -> None:
    """The reason why models are called with use_cache=False."""
    assert largest_difference(model, use_cache=True) > 1e-2


def test_a_mask_of_ones_lets_packed_documents_see_each_other(model: PreTrainedModel) -> None:
    """The reason why the collator makes no attention mask."""
    ones = torch.ones_like(batch_of("best_fit")["input_ids"])
    assert largest_difference(model, use_cache=False, attention_mask=ones) > 1e-2


def test_padding_changes_no_logits_of_unpacked_rows(model: PreTrainedModel) -> None:
    rows, batch = dataset("none"), batch_of("none")
    with torch.no_grad():
        padded = model(**{name: batch[name] for name in batch if name != "labels"}, use_cache=False).logits
        for at, place, ids in segments_of(rows):
            assert (padded[at, place] - model(input_ids=ids[None]).logits[0]).abs().max() < 1e-5


def test_loss_and_gradients_of_packed_rows_are_those_of_unpacked_rows(model: PreTrainedModel) -> None:
    packed, unpacked = (loss_and_gradients(model, batch_of(packing)) for packing in ("best_fit", "none"))
    assert packed[0] == pytest.approx(unpacked[0], rel=1e-6)
    for one, other in zip(packed[1], unpacked[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def loss_and_gradients(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch, use_cache=False, num_items_in_batch=1).loss  # a sum over tokens, not a mean
    loss.backward()
    return float(loss.detach()), [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


segmented = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=4)


@given(segmented, st.booleans())
def test_a_batch_contains_all_of_its_rows_and_nothing_else(segments: list[list[int]], packed: bool) -> None:
    rows = [Row(np.arange(1, sum(parts) + 1), np.array(parts)) for parts in segments]
    batch = RowCollator(PAD, packed)(rows)
    assert set(batch) == {"input_ids", "labels"} | ({"position_ids"} if packed else set())
    width = max(sum(parts) for parts in segments)
    for at, parts in enumerate(segments):
        padding = width - sum(parts)
        ids = list(range(1, sum(parts) + 1))
        firsts = set(np.cumsum([0, *parts]).tolist())
        assert batch["input_ids"][at].tolist() == ids + [PAD] * padding
        labels = [IGNORE_INDEX if place in firsts else token for place, token in enumerate(ids)]
        assert batch["labels"][at].tolist() == labels + [IGNORE_INDEX] * padding
        if packed:
            positions = [place for length in [*parts, padding] for place in range(length)]
            assert batch["position_ids"][at].tolist() == positions


@given(segmented, st.booleans(), st.integers(1, 16))
def test_a_multiple_widens_a_batch_with_padding_alone(segments: list[list[int]], packed: bool, multiple: int) -> None:
    rows = [Row(np.arange(1, sum(parts) + 1), np.array(parts)) for parts in segments]
    narrow, wide = RowCollator(PAD, packed)(rows), RowCollator(PAD, packed, multiple)(rows)
    longest, width = (batch["input_ids"].shape[1] for batch in (narrow, wide))
    assert width % multiple == 0
    assert longest <= width < longest + multiple
    for name, tensor in narrow.items():
        assert wide[name].shape == (len(rows), width)
        assert wide[name][:, :longest].tolist() == tensor.tolist()
    assert (wide["input_ids"][:, longest:] == PAD).all()
    assert (wide["labels"][:, longest:] == IGNORE_INDEX).all()


def test_batches_are_int64() -> None:
    assert {tensor.dtype for tensor in batch_of("best_fit").values()} == {torch.int64}


def test_a_dataset_reads_its_rows_from_the_store_on_access() -> None:
    rows = dataset("concat")
    assert len(rows) == -(-sum(DOCUMENTS) // BLOCK)
    assert rows[1].input_ids.tolist() == rows.store.tokens[BLOCK : 2 * BLOCK].tolist()
    assert rows.packing == "concat"
