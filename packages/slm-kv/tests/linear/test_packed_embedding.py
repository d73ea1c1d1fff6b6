"""An embedding that is tied to a packed head reads its rows there, and gets its weight back after unpacking."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from slm_kv import pack
from slm_kv.linear.packed_embedding import PackedEmbedding
from slm_testing.kv.cpu_features import READABLE_DTYPES
from slm_testing.kv.tiny_models import make_model


@pytest.mark.parametrize("dtype", READABLE_DTYPES)
def test_plain_weights_are_freed_and_a_tied_embedding_reads_the_head(dtype: torch.dtype) -> None:
    model = make_model("gpt2").to(dtype)
    embedding, weight = model.transformer.wte, model.transformer.wte.weight.detach().clone()
    packed = pack(model)
    assert all(layer.weight is None for layer in packed.layers.values())
    assert "transformer.wte.weight" not in dict(model.named_parameters())
    ids = torch.tensor([[0, 96, 63], [64, 96, 1]])
    assert torch.equal(model.transformer.wte(ids), weight[ids])
    assert model.transformer.wte(torch.empty(2, 0, dtype=torch.long)).shape == (2, 0, 32)
    for id in (97, -1):
        with pytest.raises(IndexError):
            model.transformer.wte(torch.tensor([0, id]))
    with pytest.raises(AttributeError, match="unpack, or close the engine"):
        _ = model.transformer.wte.weight
    packed.unpack()
    assert model.transformer.wte is embedding
    assert model.lm_head.weight is embedding.weight
    assert torch.equal(embedding.weight, weight)


@pytest.mark.parametrize("dtype", READABLE_DTYPES)
def test_a_tied_weight_is_stored_once(dtype: torch.dtype) -> None:
    config = GPT2Config(vocab_size=6400, n_embd=64, n_layer=1, n_head=1, n_positions=64)
    model = GPT2LMHeadModel(config).to(dtype).eval()
    bytes_before = sum(weight.nbytes for weight in model.parameters())
    packed = pack(model)
    assert sum(weight.nbytes for weight in model.parameters()) + packed.nbytes < 1.02 * bytes_before


def test_a_tied_embedding_keeps_its_weight_if_the_head_has_no_rows_or_it_needs_more_than_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Scaled(nn.Embedding):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(ids)

    def packed_with(embedding: nn.Embedding) -> nn.Module:
        model = nn.ModuleDict({"embedding": embedding, "head": nn.Linear(4, 9, bias=False)})
        model["head"].weight = embedding.weight
        assert pack(model).layers.keys() == {"head"}
        return model["embedding"]

    assert type(packed_with(nn.Embedding(9, 4))) is PackedEmbedding
    for embedding in (Scaled(9, 4), nn.Embedding(9, 4, max_norm=1.0)):
        assert packed_with(embedding) is embedding
    monkeypatch.setattr("slm_kv.linear.packed_linear.import_optional", lambda name: None)
    embedding, mapped = nn.Embedding(9, 4), torch.randn(9, 4)
    embedding.weight = nn.Parameter(mapped)
    assert packed_with(embedding) is embedding
    assert torch.equal(embedding.weight, mapped)
    assert embedding.weight.data_ptr() != mapped.data_ptr()  # a view would keep the whole checkpoint in memory


def test_an_adapted_embedding_keeps_its_weight() -> None:
    config = LoraConfig(r=2, target_modules=["wte"], init_lora_weights=False)
    model = get_peft_model(make_model("gpt2"), config).eval()
    ids = torch.randint(0, 97, (2, 5))
    with torch.inference_mode():
        expected = model(ids).logits
        packed = pack(model)
        assert not packed.embeddings
        assert torch.allclose(model(ids).logits, expected, atol=1e-4)
