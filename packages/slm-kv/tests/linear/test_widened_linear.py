"""bfloat16 layers on a CPU without bfloat16 arithmetic."""

from typing import Any

import pytest
import torch
from torch import nn

from slm_kv import pack
from slm_testing.kv.tiny_models import MODEL_FACTORIES, make_model

widened_linear = pytest.importorskip("slm_kv.linear.widened_linear", reason="numba is not installed")
layout_is_known = widened_linear.Tile(2).usable
# Else such layers stay plain, which is tested below. On x86 with AVX2 or more none of these tests may be skipped.
needs_layout = pytest.mark.skipif(not layout_is_known, reason="a CPU where oneDNN packs weights in another layout")
MAX_FEW_ROWS = widened_linear.MAX_FEW_ROWS


@pytest.fixture(autouse=True)
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)


def test_the_layout_is_known_on_cpus_with_avx2() -> None:
    assert layout_is_known or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def layer(outputs: int, inputs: int, bias: bool) -> tuple[Any, torch.Tensor, torch.Tensor | None]:
    weight, bias_O = draw(outputs, inputs), draw(outputs) if bias else None
    return widened_linear.WidenedLinear(weight, bias_O, widened_linear.Tile(inputs)), weight, bias_O


@needs_layout
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64, 32), (97, 30), (7, 12), (1, 2), (300, 6000), (1100, 768)])
def test_the_product_is_rounded_once(shape: tuple[int, int], bias: bool, threads: int) -> None:
    """Tiles of one and of several blocks, complete and incomplete, with few rows and with more."""
    packed_layer, weight, bias_O = layer(*shape, bias)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 3, MAX_FEW_ROWS, MAX_FEW_ROWS + 1, 2 * MAX_FEW_ROWS):
            x = draw(1, rows, shape[1])
            exact = nn.functional.linear(x.double(), weight.double(), None if bias_O is None else bias_O.double())
            result = packed_layer(x)
            assert result.shape == exact.shape
            assert result.dtype is torch.bfloat16
            # half a step of bfloat16, and the rounding of a sum in float32
            bound = exact.abs() * 2**-8 + (x.double().abs() @ weight.double().abs().T) * shape[1] * 2**-24
            assert ((result.double() - exact).abs() <= bound + 1e-6).all()
    finally:
        torch.set_num_threads(before)
    assert packed_layer(draw(0, shape[1])).shape == (0, shape[0])
    assert packed_layer(draw(shape[1])).shape == (shape[0],)


@needs_layout
def test_layers_that_share_a_tile_do_not_affect_each_other() -> None:
    tile = widened_linear.Tile(768)
    wide, narrow = draw(2 * tile.outputs, 768), draw(70, 768)
    both = [widened_linear.WidenedLinear(weight, None, tile) for weight in (wide, narrow)]
    x = draw(2 * MAX_FEW_ROWS, 768)
    first = [linear(x) for linear in both]
    assert all(torch.equal(linear(x), y) for linear, y in zip(both, first, strict=True))
    assert torch.allclose(first[1].float(), (x.float() @ narrow.float().T), rtol=2**-7, atol=1e-2)


@needs_layout
def test_a_model_packed_in_inference_mode_can_be_called_outside_of_it() -> None:
    model = nn.Sequential(nn.Linear(6, 5)).to(torch.bfloat16)
    with torch.inference_mode():
        pack(model)
    with torch.no_grad():
        result = model(draw(2 * MAX_FEW_ROWS, 6))
    with torch.inference_mode():
        assert torch.equal(model(draw(2 * MAX_FEW_ROWS, 6)), result)


@needs_layout
def test_a_row_does_not_depend_on_other_rows() -> None:
    packed_layer, _, _ = layer(200, 52, True)
    x = draw(2 * MAX_FEW_ROWS, 52)
    for rows in (MAX_FEW_ROWS, 2 * MAX_FEW_ROWS):
        assert torch.equal(
            packed_layer(x[:rows])[: MAX_FEW_ROWS // 2], packed_layer(x[:rows].flip(0)).flip(0)[: MAX_FEW_ROWS // 2]
        )
    assert torch.equal(packed_layer(x[:MAX_FEW_ROWS])[3], packed_layer(x[3]))


@needs_layout
@pytest.mark.parametrize("name", MODEL_FACTORIES)
def test_a_model_is_packed_in_16_bits_and_restored_bit_for_bit(name: str) -> None:
    model = make_model(name).to(torch.bfloat16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = torch.randint(0, 97, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = make_model(name).to(torch.bfloat16).float()(ids).logits
        packed = pack(model)
        result = model(ids).logits
    layers = {module for module in model.modules() if isinstance(module, widened_linear.WidenedLinear)}
    assert len(packed.layers) == len(layers) >= 9
    assert packed.kernel == "onednn"
    padded = sum(-(-linear.out_features // 64) * 64 * linear.in_features for linear in layers)
    assert packed.nbytes == 2 * padded
    assert (result - expected).norm() < 0.02 * expected.norm()
    packed.unpack()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_layers_with_odd_inputs_or_an_unknown_layout_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).to(torch.bfloat16)
    assert list(pack(model).layers) == (["1"] if layout_is_known else [])
    monkeypatch.setattr(widened_linear, "view_onednn", lambda *_: None)
    assert pack(nn.Sequential(nn.Linear(4, 3)).to(torch.bfloat16)).layers == {}
