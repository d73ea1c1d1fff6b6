"""Dtypes of angles and outputs, for every dtype of the base, with autocast, and after ``to``, ``half`` and others."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slm_adapters import ButterflyConfig
from slm_testing.adapters.tiny_adapters import (
    MakeModel,
    assert_same_bits,
    butterfly,
    random_butterfly,
    randomize_angles,
)

BASES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
AUTOCAST = [None, torch.float16, torch.bfloat16]
CASTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "to": lambda model: model.to(torch.float16),
    "to device and dtype": lambda model: model.to("cpu", torch.bfloat16),
}


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 8))


def adapted_layers(dtype: torch.dtype, **options: Any) -> PeftModel:
    model = get_peft_model(base().to(dtype), ButterflyConfig(side="both", scale=True), **options)
    randomize_angles(model)
    return model


def angle_dtypes(model: nn.Module) -> set[torch.dtype]:
    return {values.dtype for name, values in model.named_parameters() if "butterfly_" in name}


@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
@pytest.mark.parametrize("autocast", AUTOCAST, ids=str)
@pytest.mark.parametrize("dtype", BASES, ids=str)
def test_the_output_has_the_dtype_of_the_base_and_angles_at_least_float32(
    dtype: torch.dtype, autocast: torch.dtype | None, autocast_adapter_dtype: bool
) -> None:
    model = adapted_layers(dtype, autocast_adapter_dtype=autocast_adapter_dtype)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    exact = deepcopy(model).double()(x.double())
    eps = max(torch.finfo(kind).eps for kind in (dtype, autocast or dtype))
    with torch.autocast("cpu", autocast) if autocast else nullcontext():
        expected = base().to(dtype)(x).dtype
        outputs = [model.train()(x), model.eval()(x)]
        with torch.no_grad():
            outputs.append(model(x))
        with model.disable_adapter():
            assert model(x).dtype == expected
        model.merge_adapter()
        outputs.append(model(x))
        model.unmerge_adapter()
    for y in outputs:
        assert y.dtype == expected
        torch.testing.assert_close(y.double(), exact, rtol=0, atol=20 * eps)
    outputs[0].float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert angle_dtypes(model) == {max(dtype, torch.float32, key=lambda kind: kind.itemsize)}
    for name, values in model.named_parameters():
        if "butterfly_" in name:
            assert values.grad is not None
            assert values.grad.dtype == values.dtype
            assert values.grad.isfinite().all()
            assert values.grad.abs().max() > 0


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_casting_an_adapted_model_casts_the_base_and_leaves_the_angles(cast: Callable[[nn.Module], nn.Module]) -> None:
    model = adapted_layers(torch.float32)
    before = {name: values.clone() for name, values in model.named_parameters() if "butterfly_" in name}
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    exact = deepcopy(model).double()(x.double())
    cast(model)
    dtype = model.base_model.model[0].get_base_layer().weight.dtype
    assert dtype.itemsize == 2
    for name, values in before.items():
        assert torch.equal(model.get_parameter(name), values)
    y = model(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), exact, rtol=0, atol=20 * torch.finfo(dtype).eps)
    model.double()
    assert angle_dtypes(model) == {torch.float64}
    assert model(x.double()).dtype == torch.float64
    model.float()
    assert angle_dtypes(model) == {torch.float32}


def test_a_small_step_is_not_lost_over_a_bfloat16_base() -> None:
    model = adapted_layers(torch.float32).bfloat16()
    angles = [values for name, values in model.named_parameters() if "butterfly_" in name]
    before = [values.detach().clone() for values in angles]
    optimizer = torch.optim.Adam(angles, lr=1e-4)  # bfloat16 numbers of 0.3 are 2e-3 apart
    model(torch.ones(1, 8, dtype=torch.bfloat16)).float().square().sum().backward()
    optimizer.step()
    for values, old in zip(angles, before, strict=True):
        torch.testing.assert_close((values - old).abs(), torch.full_like(old, 1e-4), rtol=0.05, atol=1e-7)


@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_angles_of_a_file_are_loaded_bit_for_bit_over_a_bfloat16_base(
    tiny: MakeModel, tmp_path: Path, dtype: torch.dtype, low_cpu_mem_usage: bool, autocast_adapter_dtype: bool
) -> None:
    random_butterfly(tiny("llama")).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    saved = {name: values.to(dtype) for name, values in load_file(file).items()}
    save_file(saved, file, metadata={"format": "pt"})
    loaded = PeftModel.from_pretrained(
        tiny("llama").bfloat16(),
        tmp_path,
        autocast_adapter_dtype=autocast_adapter_dtype,
        low_cpu_mem_usage=low_cpu_mem_usage,
    )
    assert angle_dtypes(loaded) == {torch.float32}
    assert_same_bits(get_peft_model_state_dict(loaded), {name: values.float() for name, values in saved.items()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
def test_a_model_in_half_precision_generates(
    tiny: MakeModel, input_ids: Tensor, dtype: torch.dtype, autocast_adapter_dtype: bool
) -> None:
    for model in (butterfly(tiny("gpt2").to(dtype)), butterfly(tiny("gpt2")).to(dtype)):
        randomize_angles(model)
        texts = model.generate(input_ids=input_ids, max_new_tokens=3, min_new_tokens=3, do_sample=False, pad_token_id=0)
        assert texts.shape == (2, 13)
