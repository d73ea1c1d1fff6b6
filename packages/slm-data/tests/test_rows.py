from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from slm_data import (
    IGNORE,
    Documents,
    RowCollator,
    RowDataset,
    RowSampler,
    RowStream,
    TokenCounts,
    TokenStore,
    plan_rows,
    train_tokenizer,
)
from slm_data.sample.corpus import stories

VOCABULARY = 97
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
GROUPED = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
}


def store_of(lengths: list[int], seed: int = 0) -> TokenStore:
    tokens = np.random.default_rng(seed).integers(3, VOCABULARY, sum(lengths)).astype(np.uint16)
    counts = TokenCounts(len(lengths), sum(lengths), 4 * sum(lengths), 0)
    return TokenStore("made up", tokens, np.array(lengths), counts, "", False)


def rows_of(lengths: list[int], block: int, packing: str) -> RowDataset:
    store = store_of(lengths)
    return RowDataset(store, plan_rows(store.lengths, block, packing, fill=0))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", MODELS)
def test_packed_logits_are_those_of_each_document_alone(family: str, attention: str) -> None:
    torch.manual_seed(0)
    model = MODELS[family]().eval()
    model.set_attn_implementation(attention)
    lengths = [21, 9, 30, 4, 11, 17, 2, 26]
    rows = rows_of(lengths, 40, "best_fit")
    assert max(np.diff(rows.plan.first)) > 1, "no row holds two documents: this would test nothing"
    batch = RowCollator(0, packed=True)([rows[i] for i in range(len(rows))])
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        for number, row in enumerate(rows[i] for i in range(len(rows))):
            at = 0
            for length in row.segments.tolist():
                alone = torch.from_numpy(row.input_ids[at : at + length])[None]
                expected = model(input_ids=alone, use_cache=False).logits[0]
                torch.testing.assert_close(packed[number, at : at + length], expected, rtol=0, atol=1e-5)
                at += length


def test_a_cache_lets_packed_documents_see_each_other() -> None:
    """The trap that the collator's documentation warns of; when this fails, the warning can go."""
    torch.manual_seed(0)
    model = MODELS["gpt2"]().eval()
    rows = rows_of([20, 20], 40, "best_fit")
    batch = RowCollator(0, packed=True)([rows[0]])
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    with torch.no_grad():
        apart = model(**inputs, use_cache=False).logits
        leaking = model(**inputs, use_cache=True).logits
    assert (apart - leaking).abs().max() > 1e-3


@pytest.mark.parametrize("packing", ["concat", "best_fit", "none"])
def test_labels_leave_out_the_first_token_of_a_segment_and_the_padding_and_nothing_else(packing: str) -> None:
    rows = rows_of([7, 19, 33, 2, 12], 16, packing)
    batch = RowCollator(1, packed=packing == "best_fit")([rows[i] for i in range(len(rows))])
    for number in range(len(rows)):
        row, at = rows[number], 0
        expected = np.full(batch["labels"].shape[1], IGNORE)
        for length in row.segments.tolist():
            expected[at + 1 : at + length] = row.input_ids[at + 1 : at + length]
            if packing == "best_fit":
                assert batch["position_ids"][number, at : at + length].tolist() == list(range(length))
            at += length
        assert batch["labels"][number].tolist() == expected.tolist()
    assert int((batch["labels"] != IGNORE).sum()) == rows.plan.predicted_tokens


@pytest.mark.parametrize("group", [0, 16])
def test_each_epoch_is_a_permutation_that_seed_and_epoch_alone_decide(group: int) -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.5, 333).astype(int)
    orders = []
    for epoch in (0, 1, 0):
        sampler = RowSampler(lengths, seed=5, group=group)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(333))
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert orders[0] != list(RowSampler(lengths, seed=6, group=group))


def test_rows_of_like_length_come_together_the_longest_first() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.5, 1600).astype(int)
    order = np.array(list(RowSampler(lengths, seed=1, group=16)))
    groups = lengths[order].reshape(-1, 16)
    assert lengths.sum() / (groups.max(axis=1) * 16).sum() > 0.95
    assert groups[0].sum() == groups.sum(axis=1).max()


def test_streamed_rows_hold_every_token_of_every_document_in_a_fixed_order() -> None:
    texts = list(stories(30, seed=4))
    tokenizer = train_tokenizer(texts, 300, model_max_length=64)
    stream = RowStream(Documents("d", "d", lambda: iter(texts)), tokenizer, 64, "best_fit")
    rows = list(stream)
    tokens = sum(len(row.input_ids) for row in rows)
    assert tokens == sum(len(tokenizer(text)["input_ids"]) + 1 for text in texts)
    assert max(len(row.input_ids) for row in rows) <= 64
    again = [row.input_ids.tolist() for row in stream]
    assert again == [row.input_ids.tolist() for row in rows]
