"""Packed layers compute what plain ones do, and come back as they were."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import MAKERS, make
from torch import nn

from slm_kv import KVError, pack
from slm_kv.packed_linear import PackedLinear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAKERS)
def test_a_packed_model_computes_the_same_and_comes_back_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    model = make(name).to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = torch.randint(0, 97, (3, 9))
    with torch.inference_mode():
        expected = model(ids).logits
        packed = pack(model)
        found = model(ids).logits
    assert len(packed.layers) == sum(isinstance(module, PackedLinear) for module in model.modules()) >= 9
    assert torch.allclose(found, expected, atol=1e-4 if dtype is torch.float32 else 0.5)
    packed.unpack()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 40, 63, 64, 65])
def test_rows_filled_up_to_a_full_tile_change_nothing(rows: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(13, 7).requires_grad_(False)
    x = torch.randn(rows, 13)
    found = PackedLinear(layer.weight, layer.bias, padded_rows=64)(x)
    assert found.shape == (rows, 7)
    assert torch.allclose(found, layer(x), atol=1e-5)


def test_the_plain_weights_are_given_up_and_a_tied_embedding_is_not() -> None:
    model = make("gpt2")
    packed = pack(model)
    assert all(layer.weight is None for layer in packed.layers.values())
    assert model.transformer.wte.weight.shape == (97, 32)
    packed.unpack()
    assert model.lm_head.weight is model.transformer.wte.weight


def test_under_lora_the_base_layer_is_packed_and_the_adapter_acts_as_before() -> None:
    model = get_peft_model(make("llama"), LoraConfig(r=4, target_modules=["q_proj", "down_proj"])).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                weight.normal_()
    ids = torch.randint(0, 97, (2, 5))
    with torch.inference_mode():
        with model.disable_adapter():
            base = model(ids).logits
        expected = model(ids).logits
        packed = pack(model)
        assert any(name.endswith("q_proj.base_layer") for name in packed.layers)
        assert not any("lora_" in name for name in packed.layers)
        assert torch.allclose(model(ids).logits, expected, atol=1e-4)
        with model.disable_adapter():
            assert torch.allclose(model(ids).logits, base, atol=1e-4)


def test_an_adapter_that_reads_its_base_weight_keeps_a_plain_one() -> None:
    model = get_peft_model(make("llama"), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)).eval()
    packed = pack(model)
    assert packed.layers
    assert not any("q_proj" in name for name in packed.layers)


def test_training_a_packed_layer_is_refused() -> None:
    layer = PackedLinear(torch.randn(4, 3), None)
    with pytest.raises(KVError, match="unpack it before training"):
        layer(torch.randn(2, 3, requires_grad=True))


def test_float64_stays_plain() -> None:
    assert pack(make("gpt2").double()).layers == {}
