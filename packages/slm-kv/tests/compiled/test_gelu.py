"""The compiled GELU by tanh."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from slm_kv import Engine, SamplingParams, pack
from slm_testing.kv.tiny_models import greedy_tokens, make_model

gelu = pytest.importorskip("slm_kv.compiled.gelu", reason="numba is not installed")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The compiled kernel is used with one thread only."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_gelu_by_tanh_to_the_precision_of_the_dtype(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-12, 12, 20_001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e4])]).to(dtype)
    exact = nn.functional.gelu(x.double(), approximate="tanh")
    result = gelu.TanhGELU()(x)
    assert result.dtype is dtype
    assert torch.allclose(result.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3, 5), (7, 67)])
def test_any_shape_and_layout_is_accepted(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert torch.allclose(gelu.TanhGELU()(x), nn.functional.gelu(x, approximate="tanh"), atol=1e-6)
    wide = torch.randn(6, 8)
    for part in (wide.t(), wide[:, 1:4]):
        assert torch.allclose(gelu.TanhGELU()(part), nn.functional.gelu(part, approximate="tanh"), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_stays_nan_and_affects_no_other_element(dtype: torch.dtype) -> None:
    result = gelu.TanhGELU()(torch.tensor([1.0, torch.nan, torch.inf, 2.0], dtype=dtype))
    assert result.isnan().tolist() == [False, True, False, False]
    assert result[2] == torch.inf


def test_gradients_are_computed() -> None:
    x = torch.randn(9, requires_grad=True)
    gelu.TanhGELU()(x).sum().backward()
    plain = x.detach().clone().requires_grad_()
    nn.functional.gelu(plain, approximate="tanh").sum().backward()
    assert torch.equal(x.grad, plain.grad)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "torch"])
def test_pack_replaces_every_variant_and_unpack_restores_it(name: str) -> None:
    before = nn.GELU(approximate="tanh") if name == "torch" else ACT2FN[name]
    model = nn.Sequential(nn.Linear(8, 8), before, nn.Linear(8, 8), nn.GELU())
    packed = pack(model)
    assert [type(layer) for layer in model[1::2]] == [gelu.TanhGELU, nn.GELU]
    packed.unpack()
    assert model[1] is before


def test_the_engine_generates_the_tokens_of_generate_on_one_thread() -> None:
    model, prompt = make_model("gpt2"), [3, 1, 4, 1, 5]
    assert [type(layer.mlp.act).__name__ for layer in model.transformer.h] == ["NewGELUActivation"] * 2
    expected = greedy_tokens(model, prompt, 12)
    with Engine(model, page_size=4, max_pages=8) as engine:
        assert {type(layer.mlp.act) for layer in model.transformer.h} == {gelu.TanhGELU}
        params = SamplingParams(max_new_tokens=12, temperature=0, ignore_eos=True)
        assert engine.generate([prompt], params)[0].token_ids == expected
