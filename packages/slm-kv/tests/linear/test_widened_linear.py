"""bfloat16 weights on a CPU without arithmetic for them."""

from typing import Any

import pytest
import torch
from torch import nn

from slm_kv import pack
from slm_testing.kv.tiny_models import MODEL_FACTORIES, make_model

widened_linear = pytest.importorskip("slm_kv.linear.widened_linear", reason="numba is not installed")
known = widened_linear.Tile(2).usable
# Then such layers stay plain, which is tested below; on x86 with AVX2 or more none of these may be skipped.
needs_layout = pytest.mark.skipif(not known, reason="a CPU where oneDNN packs weights in another layout")
FEW = widened_linear.MAX_FEW_ROWS


@pytest.fixture(autouse=True)
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)


def test_the_layout_is_known_wherever_the_cpu_has_avx2() -> None:
    assert known or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def layer(outputs: int, inputs: int, bias: bool) -> tuple[Any, torch.Tensor, torch.Tensor | None]:
    weight, bias_O = draw(outputs, inputs), draw(outputs) if bias else None
    return widened_linear.WidenedLinear(weight, bias_O, widened_linear.Tile(inputs)), weight, bias_O


@needs_layout
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64, 32), (97, 30), (7, 12), (1, 2), (300, 6000), (1100, 768)])
def test_it_is_the_product_rounded_once(shape: tuple[int, int], bias: bool, threads: int) -> None:
    """Tiles of one block and of many, whole and in part, by a few rows and by more."""
    made, weight, bias_O = layer(*shape, bias)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 3, FEW, FEW + 1, 2 * FEW):
            x = draw(1, rows, shape[1])
            exact = nn.functional.linear(x.double(), weight.double(), None if bias_O is None else bias_O.double())
            found = made(x)
            assert found.shape == exact.shape
            assert found.dtype is torch.bfloat16
            # half a step of bfloat16, and what a sum in float32 may be off by
            bound = exact.abs() * 2**-8 + (x.double().abs() @ weight.double().abs().T) * shape[1] * 2**-24
            assert ((found.double() - exact).abs() <= bound + 1e-6).all()
    finally:
        torch.set_num_threads(before)
    assert made(draw(0, shape[1])).shape == (0, shape[0])
    assert made(draw(shape[1])).shape == (shape[0],)


@needs_layout
def test_layers_that_share_a_tile_leave_nothing_to_each_other() -> None:
    tile = widened_linear.Tile(768)
    wide, narrow = draw(2 * tile.outputs, 768), draw(70, 768)
    both = [widened_linear.WidenedLinear(weight, None, tile) for weight in (wide, narrow)]
    x = draw(2 * FEW, 768)
    first = [one(x) for one in both]
    assert all(torch.equal(one(x), y) for one, y in zip(both, first, strict=True))
    assert torch.allclose(first[1].float(), (x.float() @ narrow.float().T), rtol=2**-7, atol=1e-2)


@needs_layout
def test_what_was_packed_in_inference_mode_is_called_outside_of_it() -> None:
    model = nn.Sequential(nn.Linear(6, 5)).to(torch.bfloat16)
    with torch.inference_mode():
        pack(model)
    with torch.no_grad():
        found = model(draw(2 * FEW, 6))
    with torch.inference_mode():
        assert torch.equal(model(draw(2 * FEW, 6)), found)


@needs_layout
def test_a_row_does_not_depend_on_those_that_share_the_call() -> None:
    made, _, _ = layer(200, 52, True)
    x = draw(2 * FEW, 52)
    for rows in (FEW, 2 * FEW):
        assert torch.equal(made(x[:rows])[: FEW // 2], made(x[:rows].flip(0)).flip(0)[: FEW // 2])
    assert torch.equal(made(x[:FEW])[3], made(x[3]))


@needs_layout
@pytest.mark.parametrize("name", MODEL_FACTORIES)
def test_a_model_is_packed_in_16_bits_and_comes_back_bit_for_bit(name: str) -> None:
    model = make_model(name).to(torch.bfloat16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ids = torch.randint(0, 97, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = make_model(name).to(torch.bfloat16).float()(ids).logits
        packed = pack(model)
        found = model(ids).logits
    layers = {module for module in model.modules() if isinstance(module, widened_linear.WidenedLinear)}
    assert len(packed.layers) == len(layers) >= 9
    assert packed.kernel == "onednn"
    filled = sum(-(-one.out_features // 64) * 64 * one.in_features for one in layers)
    assert packed.nbytes == 2 * filled
    assert (found - expected).norm() < 0.02 * expected.norm()
    packed.unpack()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_odd_inputs_and_an_unknown_layout_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).to(torch.bfloat16)
    assert list(pack(model).layers) == (["1"] if known else [])
    monkeypatch.setattr(widened_linear, "view_blocks", lambda *_: None)
    assert pack(nn.Sequential(nn.Linear(4, 3)).to(torch.bfloat16)).layers == {}
