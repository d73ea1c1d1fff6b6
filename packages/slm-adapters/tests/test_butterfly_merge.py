"""Merging a butterfly computes the same function, and unmerging restores every bit of the base."""

from typing import Any

import pytest
import torch
from torch import nn

from slm_adapters import AdapterError, ButterflyConfig, ButterflyLayer, Rotation, rotation_matrix
from slm_adapters.layer_laws import merged_equals_unmerged, unmerge_restores
from slm_testing.adapters.tiny_adapters import (
    MakeModel,
    all_settings,
    assert_same_bits,
    copy_state,
    layers,
    logits,
    random_butterfly,
    randomize_angles,
    weight,
)


@all_settings
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(16, 48), (48, 16)], ids=str)
def test_the_laws_of_a_layer_hold(settings: dict[str, Any], bias: bool, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = ButterflyLayer(nn.Linear(*shape, bias=bias), "default", ButterflyConfig(**settings), "layer").eval()
    randomize_angles(layer)
    merged_equals_unmerged(layer, torch.randn(2, 3, shape[0]))
    unmerge_restores(layer)


def test_the_laws_of_a_layer_fail_when_they_are_violated(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = ButterflyLayer(nn.Linear(16, 48), "default", ButterflyConfig(), "layer").eval()
    randomize_angles(layer)
    monkeypatch.setattr(ButterflyLayer, "unmerge", lambda self: self.merged_adapters.clear())
    with pytest.raises(AssertionError, match=r"layer: unmerging leaves weight changed"):
        unmerge_restores(layer)
    with pytest.raises(AssertionError, match=r"layer: merged and unmerged differ by"):
        merged_equals_unmerged(layer, torch.full((1, 16), torch.nan))


def test_the_merged_weight_is_the_product_of_the_matrices() -> None:
    torch.manual_seed(0)
    base = nn.Linear(12, 20).double()
    base_weight, base_bias = weight(base), base.bias.detach().clone()
    layer = ButterflyLayer(base, "default", ButterflyConfig(side="both", scale=True, strength=0.5), "layer")
    randomize_angles(layer)
    input_matrix = rotation_matrix(0.5 * layer.butterfly_input["default"], Rotation.of(12))
    output_matrix = rotation_matrix(0.5 * layer.butterfly_output["default"], Rotation.of(20))
    magnitude = torch.diag(1 + 0.5 * layer.butterfly_magnitude["default"].detach())
    layer.merge()
    torch.testing.assert_close(
        base.weight.detach(), magnitude @ output_matrix @ base_weight @ input_matrix, rtol=0, atol=1e-14
    )
    torch.testing.assert_close(base.bias.detach(), magnitude @ output_matrix @ base_bias, rtol=0, atol=1e-14)


def test_a_safe_merge_refuses_a_damaged_adapter_and_leaves_the_base(tiny: MakeModel) -> None:
    adapted = random_butterfly(tiny("llama"), side="input")
    layer = next(iter(layers(adapted).values()))
    with torch.no_grad():
        layer.butterfly_input["default"][0, 3] = torch.nan
    with pytest.raises(
        AdapterError, match=r"layers.0.self_attn.q_proj: merging adapter 'default' gives weights that are not finite"
    ):
        adapted.merge_adapter(safe_merge=True)
    adapted.unmerge_adapter()
    assert_same_bits(copy_state(adapted.unload()), copy_state(tiny("llama")))


def test_a_merged_model_cast_to_another_dtype_unmerges_in_that_dtype(tiny: MakeModel, input_ids: torch.Tensor) -> None:
    adapted = random_butterfly(tiny("llama"))
    adapted.merge_adapter()
    adapted.to(torch.float64)
    adapted.unmerge_adapter()
    assert {values.dtype for values in adapted.parameters()} == {torch.float64}
    expected = logits(random_butterfly(tiny("llama")).double(), input_ids)
    torch.testing.assert_close(logits(adapted, input_ids), expected, rtol=0, atol=1e-5)
