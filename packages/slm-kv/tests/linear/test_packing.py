"""Packed layers compute what plain ones do, and unpacking restores the plain ones."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from slm_kv import KVError, pack
from slm_kv.linear.packed_linear import PackedLayer, PackedLinear
from slm_kv.linear.quantised_selection import QuantisedFormat
from slm_testing.kv.cpu_features import PACKED_DTYPES
from slm_testing.kv.tiny_models import MODEL_FACTORIES, greedy_tokens, make_model


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
@pytest.mark.parametrize("name", MODEL_FACTORIES)
def test_a_packed_model_computes_the_same_and_is_restored_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    model = make_model(name).to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = torch.randint(0, 97, (3, 9))
    with torch.inference_mode():
        expected = model(ids).logits
        packed = pack(model)
        result = model(ids).logits
    assert len(packed.layers) == sum(isinstance(module, PackedLayer) for module in model.modules()) >= 9
    assert torch.allclose(result, expected, atol=1e-4 if dtype is torch.float32 else 0.5)
    packed.unpack()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 40, 63, 64, 65])
def test_padding_rows_to_a_full_tile_changes_nothing(rows: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(13, 7).requires_grad_(False)
    x = torch.randn(rows, 13)
    result = PackedLinear(layer.weight, layer.bias, padded_rows=64)(x)
    assert result.shape == (rows, 7)
    assert torch.allclose(result, layer(x), atol=1e-5)


def test_under_lora_the_base_layer_is_packed_and_the_adapter_works_as_before() -> None:
    model = get_peft_model(make_model("llama"), LoraConfig(r=4, target_modules=["q_proj", "down_proj"])).eval()
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


def test_the_base_layer_of_an_adapter_that_reads_its_weight_stays_plain() -> None:
    model = get_peft_model(make_model("llama"), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)).eval()
    packed = pack(model)
    assert packed.layers
    assert not any("q_proj" in name for name in packed.layers)


def test_training_a_packed_layer_is_refused() -> None:
    layer = PackedLinear(torch.randn(4, 3), None)
    with pytest.raises(KVError, match="unpack it before training"):
        layer(torch.randn(2, 3, requires_grad=True))


def test_merging_into_packed_layers_is_an_error_with_advice() -> None:
    model = get_peft_model(
        make_model("llama"), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    ).eval()
    packed = pack(model)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert not hasattr(layer.base_layer, "weight")
    with pytest.raises(AttributeError, match="unpack, or close the engine"):
        model.merge_adapter()
    packed.unpack()
    before = layer.base_layer.weight.clone()
    model.merge_adapter()
    assert not torch.equal(layer.base_layer.weight, before)


def test_float64_stays_plain() -> None:
    assert pack(make_model("gpt2").double()).layers == {}


@pytest.mark.parametrize("name", MODEL_FACTORIES)
def test_a_packed_model_generates_the_same_tokens(name: str) -> None:
    model = make_model(name)
    expected = greedy_tokens(model, [5, 11, 3], 12)
    pack(model)
    assert greedy_tokens(model, [5, 11, 3], 12) == expected


def test_adapters_are_switched_and_added_over_packed_layers() -> None:
    config = LoraConfig(r=4, target_modules=["c_attn", "c_fc"], init_lora_weights=False, fan_in_fan_out=True)
    model = get_peft_model(make_model("gpt2"), config, adapter_name="first").eval()
    model.add_adapter("second", config)
    ids = torch.randint(0, 97, (2, 5))

    @torch.inference_mode()
    def logits(adapter: str) -> torch.Tensor:
        model.set_adapter(adapter)
        return model(ids).logits

    expected = {adapter: logits(adapter) for adapter in ("first", "second")}
    packed = pack(model)
    for adapter in ("second", "first", "second"):
        assert torch.allclose(logits(adapter), expected[adapter], atol=1e-4)
    model.add_adapter("third", config)
    third = logits("third")
    packed.unpack()
    assert torch.allclose(logits("third"), third, atol=1e-4)
    assert not torch.allclose(third, expected["first"], atol=1e-2)


def test_a_butterfly_keeps_its_plain_base_layer() -> None:
    slm_adapters = pytest.importorskip("slm_adapters")
    model = get_peft_model(
        make_model("llama"), slm_adapters.ButterflyConfig(target_modules=["q_proj"], init_weights=False)
    ).eval()
    ids = torch.randint(0, 97, (2, 5))
    with torch.inference_mode():
        expected = model(ids).logits
        packed = pack(model)
        assert torch.allclose(model(ids).logits, expected, atol=1e-4)
    assert packed.layers
    assert not any("q_proj" in name for name in packed.layers)


def test_an_unpacked_model_can_be_trained_as_before() -> None:
    model = make_model("gpt2")
    model.transformer.h[0].attn.c_attn.weight.requires_grad_(False)
    with torch.inference_mode():
        pack(model).unpack()
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trainable) == len(list(model.parameters())) - 1
    ids = torch.randint(0, 97, (2, 5))
    model(ids, labels=ids).loss.backward()
    assert model.transformer.h[1].mlp.c_fc.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("weights", [None, "q8"])
def test_a_layer_that_occurs_twice_is_packed_once(weights: QuantisedFormat | None) -> None:
    layer = nn.Linear(32, 32)
    model = nn.Sequential(layer, nn.GELU(), layer)
    x = torch.randn(2, 32)
    with torch.inference_mode():
        expected = model(x)
        packed = pack(model, weights=weights)
        assert model[0] is model[2] is not layer
        assert torch.allclose(model(x), expected, atol=0.05 if weights else 1e-5)
        packed.unpack()
    assert model[0] is model[2] is layer


def test_dtype_casts_the_whole_model() -> None:
    model = make_model("qwen2")
    packed = pack(model, torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    kernel = "onednn" if torch.bfloat16 in PACKED_DTYPES else "plain"
    assert (packed.kernel, pack(make_model("qwen2").double()).kernel) == (kernel, "plain")


def test_without_bfloat16_arithmetic_and_numba_bfloat16_layers_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr("slm_kv.linear.packing.import_optional", lambda name: None)
    assert pack(make_model("llama").to(torch.bfloat16)).layers == {}
    assert pack(make_model("llama")).layers
