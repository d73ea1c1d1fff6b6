"""Quantised layers round as their format says, and compute with the rounded weight for any number of rows."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from slm_kv import KVError, pack
from slm_kv.linear.block_formats import BlockFormat, QuantisedWeight, quantise_weight
from slm_kv.linear.quantised_linear import QuantisedLinear, product_dtype
from slm_kv.linear.widening_tile import WideningTile
from slm_testing.kv.tiny_models import MODEL_FACTORIES, make_model

FORMATS: tuple[BlockFormat, ...] = ("q8", "q4", "q41")
PRODUCT_DTYPES = [torch.float32, *([torch.bfloat16] if product_dtype() is torch.bfloat16 else [])]


@pytest.fixture(params=["numba", "torch"])
def each_rounding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr("slm_kv.linear.block_formats.import_optional", lambda name: None)


def random_weight(outputs: int, inputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(outputs, inputs, generator=generator) * torch.logspace(-2, 1, outputs)[:, None]


def simply_rounded(groups: Tensor, block_format: BlockFormat) -> Tensor:
    """The rules of llama.cpp's Q8_0, Q4_0 and Q4_1, with unrounded scales."""
    if block_format == "q41":
        low, high = groups.aminmax(dim=-1, keepdim=True)
        return ((groups - low) / (high - low) * 15).round() / 15 * (high - low) + low
    if block_format == "q8":
        scale = groups.abs().amax(-1, keepdim=True) / 127
        return (groups / scale).round() * scale
    scale = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)) / -8
    return (groups / scale + 8.5).floor().clamp(0, 15).sub(8) * scale


@pytest.mark.parametrize("block_format", FORMATS)
@pytest.mark.parametrize("shape", [(20, 32), (64, 64), (130, 96)])
@pytest.mark.usefixtures("each_rounding")
def test_the_error_is_not_larger_than_that_of_simple_rounding(
    block_format: BlockFormat, shape: tuple[int, int]
) -> None:
    weight = random_weight(*shape)
    groups, dense = weight.unflatten(1, (-1, 32)), quantise_weight(weight, block_format).dense()[: shape[0]]
    error = (dense - weight).square().sum(1)
    simple = (simply_rounded(groups, block_format) - groups).square().sum((1, 2))
    assert (error <= 1.1 * simple).all()  # a row has few groups: float16 scales may be unlucky
    assert error.sum() <= (1.02 if block_format == "q8" else 0.95) * simple.sum()


@pytest.mark.parametrize("block_format", FORMATS)
def test_the_layout_is_the_documented_one(block_format: BlockFormat) -> None:
    """Decode every number by the description, one by one."""
    weight = random_weight(70, 64)
    packed = quantise_weight(weight, block_format)
    decoded = torch.empty(70, 64)
    for output in range(70):
        for i in range(64):
            block = packed.blocks[output // 64, i // 32]
            j, b, o = i % 32 // 4, i % 4, output % 64
            if block_format == "q8":
                step, zero = int(block[(j * 64 + o) * 4 + b]), 128
            else:
                both = int(block[(j // 2 * 64 + o) * 4 + b])
                step, zero = (both >> 4 if j % 2 else both & 15), 8 if block_format == "q4" else 0
            numbers = block[2048 if block_format == "q8" else 1024 :].view(torch.float16).float()
            decoded[output, i] = (step - zero) * numbers[o] + (numbers[64 + o] if block_format == "q41" else 0)
    assert torch.equal(packed.dense()[:70], decoded)
    assert torch.equal(packed.rows(torch.tensor([69, 0, 69])), decoded[[69, 0, 69]])


@pytest.mark.parametrize("block_format", FORMATS)
@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.usefixtures("each_rounding")
def test_special_numbers_do_not_become_ordinary_ones(block_format: BlockFormat, special: float) -> None:
    weight = torch.zeros(3, 64)
    weight[1, 40] = special
    dense = quantise_weight(weight, block_format).dense()[:3]
    assert not dense[1, 40].isfinite()
    assert torch.equal(dense[[0, 2]], weight[[0, 2]])


def layer(packed: QuantisedWeight, bias: Tensor | None, dtype: torch.dtype) -> QuantisedLinear:
    return QuantisedLinear(packed, bias, torch.float32, WideningTile(packed.inputs, dtype, packed.outputs))


@pytest.mark.parametrize("dtype", PRODUCT_DTYPES)
@pytest.mark.parametrize("block_format", FORMATS)
@pytest.mark.parametrize("compiled", [True, False])
def test_many_rows_are_multiplied_by_the_rounded_weight(
    dtype: torch.dtype, block_format: BlockFormat, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("slm_kv.linear.widening_tile.import_optional", lambda name: None)
    packed = quantise_weight(random_weight(150, 96), block_format)
    bias, x = torch.randn(150), torch.randn(5, 40, 96)
    quantised = layer(packed, bias, dtype)
    whole = quantised(x)
    expected = x.to(dtype).double() @ packed.dense()[:150].to(dtype).double().T + bias
    assert (whole - expected).norm() <= (1e-5 if dtype is torch.float32 else 0.005) * expected.norm()
    assert quantised(x[:0]).shape == (0, 40, 150)


@pytest.mark.parametrize("block_format", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_few_rows_are_multiplied_by_the_rounded_weight(block_format: BlockFormat, rows: int) -> None:
    packed = quantise_weight(random_weight(150, 96), block_format)
    bias, x = torch.randn(150), torch.randn(rows, 96)
    expected = x.double() @ packed.dense()[:150].double().T + bias
    assert (layer(packed, bias, product_dtype())(x) - expected).norm() <= 0.012 * expected.norm()


def test_a_weight_of_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_kv.linear.widening_tile.TILE_BYTES", 1)
    packed = quantise_weight(random_weight(150, 96), "q8")
    bias, x = torch.randn(150), torch.randn(200, 96)
    quantised = layer(packed, bias, torch.float32)
    assert quantised._tile.outputs == 64
    assert torch.allclose(quantised(x), x @ packed.dense()[:150].T + bias, rtol=1e-4, atol=1e-4)
    assert torch.equal(quantised.dense_weight(), packed.dense()[:150])


def test_gradients_are_refused() -> None:
    quantised = layer(quantise_weight(random_weight(3, 32), "q8"), None, torch.float32)
    with pytest.raises(KVError, match="unpack it before training"):
        quantised(torch.randn(1, 32, requires_grad=True))


@pytest.mark.parametrize("weights", ["q8", "q4"])
@pytest.mark.parametrize("name", MODEL_FACTORIES)
def test_a_packed_model_computes_with_the_weights_that_unpacking_restores(
    name: str, weights: Literal["q8", "q4"]
) -> None:
    model = make_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = torch.randint(0, 97, (4, 40))
    with torch.inference_mode():
        packed = pack(model, weights=weights)
        quantised = packed.quantised_layers
        result = model(ids).logits
        packed.unpack()
        expected = model(ids).logits
    assert quantised
    assert (result - expected).norm() < 0.02 * expected.norm()
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed
    assert all(before[key].dim() == 2 for key in changed)


def test_layers_whose_inputs_are_no_multiple_of_32_are_counted() -> None:
    packed = pack(nn.Sequential(nn.Linear(48, 64), nn.Linear(64, 7)), weights="q4")
    assert packed.quantised_layers == 1
    assert packed.layer_summary == "2 linear layers prepacked in q4 (1 not: their inputs are no multiple of 32)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "q5"}, "weights='q5' is not one of float32, bfloat16, q8, q4"),
        ({"weights": "bfloat16", "dtype": torch.float32}, "both name a dtype"),
    ],
)
def test_an_unknown_format_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(KVError, match=message):
        pack(make_model("llama"), **options)
