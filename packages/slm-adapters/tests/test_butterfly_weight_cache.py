"""The rotated weight cached for inference: equal to the merged model's, used where allowed, never out of date."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from slm_adapters import ButterflyConfig, ButterflyLayer
from slm_testing.adapters.cache_changes import CHANGES, Change, count_cosines
from slm_testing.adapters.tiny_adapters import MakeModel, butterfly_layer, random_butterfly, randomize_angles


def with_cached_weight(layer: ButterflyLayer) -> ButterflyLayer:
    layer.cache_weight = True
    return layer


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_cached_weight_gives_the_merged_model_bit_for_bit(tiny: MakeModel, name: str) -> None:
    adapted = random_butterfly(tiny(name), side="both", scale=True)
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        unmerged = adapted(ids).logits
        adapted.cache_weights()
        actual, again = adapted(ids).logits, adapted(ids).logits
        adapted.merge_adapter()
        merged = adapted(ids).logits
        adapted.unmerge_adapter()
        assert torch.equal(adapted(ids).logits, merged)
        adapted.cache_weights(False)
        assert torch.equal(adapted(ids).logits, unmerged)
    assert not torch.equal(unmerged, merged)  # they round differently, so the cached weight was used
    assert torch.equal(actual, merged)
    assert torch.equal(again, merged)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_cached_weight_is_dropped_when_its_angles_change(change: Change) -> None:
    layer, x = with_cached_weight(butterfly_layer("input").eval()), torch.randn(3, 16)
    with torch.no_grad():
        before = layer(x)
        assert count_cosines(layer, x) == 0
        change(layer, layer.butterfly_input["default"])
        actual = layer(x)
        expected = copy.deepcopy(layer).train().eval()(x)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("part", ["butterfly_output", "butterfly_magnitude", "weight", "bias"])
def test_a_cached_weight_follows_every_part_of_the_layer(part: str) -> None:
    layer, x = with_cached_weight(butterfly_layer("both", scale=True).eval()), torch.randn(3, 16)
    changed = getattr(layer.base_layer, part) if part in ("weight", "bias") else getattr(layer, part)["default"]
    with torch.no_grad():
        before = layer(x)
        changed.mul_(1.5)
        actual = layer(x)
        expected = copy.deepcopy(layer).train().eval()(x)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert torch.equal(actual, expected)


def test_a_cached_weight_is_that_of_the_adapter_in_use(tiny: MakeModel) -> None:
    adapted = random_butterfly(tiny("gpt2"), side="input")
    adapted.add_adapter("second", ButterflyConfig(side="output", scale=True))
    randomize_angles(adapted, "second", seed=1)
    adapted.eval().cache_weights()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        for names in ("default", "second", "default", ["default", "second"]):
            adapted.base_model.set_adapter(names)
            actual = adapted(ids).logits
            adapted.merge_adapter()
            torch.testing.assert_close(actual, adapted(ids).logits, rtol=0, atol=0 if isinstance(names, str) else 1e-4)
            adapted.unmerge_adapter()


def test_a_cached_weight_stays_out_of_training_and_of_what_is_saved() -> None:
    layer, x = with_cached_weight(butterfly_layer().eval()), torch.randn(3, 16)
    names = set(layer.state_dict())
    with torch.no_grad():
        layer(x)
    assert set(layer.state_dict()) == names
    layer(x).sum().backward()  # in eval mode, with gradients
    assert layer.butterfly_input["default"].grad is not None
    layer.train()
    with torch.no_grad():
        assert count_cosines(layer, x) > 0


@pytest.mark.parametrize("keep", [False, True], ids=["rotation", "weight"])
def test_layers_created_in_inference_mode_are_cached_too(keep: bool) -> None:
    with torch.inference_mode():  # such tensors have no version counter
        layer, x = butterfly_layer().eval(), torch.randn(3, 16)
        layer.cache_weight = keep
        before = layer(x)
        assert count_cosines(layer, x) == 0
        layer.butterfly_input["default"].add_(0.5)
        assert not torch.allclose(layer(x), before, atol=1e-3)


def test_a_few_tokens_use_the_rotated_weight_by_default() -> None:
    layer = butterfly_layer().eval()
    merged = copy.deepcopy(layer)
    merged.merge()
    few, many = torch.randn(2, 4, 16), torch.randn(3, 3, 16)
    with torch.no_grad():
        assert torch.equal(layer(few), merged(few))
        assert count_cosines(layer, few) == 0
        by_weight, expected = layer(many), merged(many)
        layer.cache_weight = False
        assert torch.equal(by_weight, layer(many))
    assert not torch.equal(
        by_weight, expected
    )  # they round differently: many tokens at once do not use the cached weight


def two_adapters(layer: ButterflyLayer) -> None:
    layer.update_layer("second", ButterflyConfig())


def large(layer: ButterflyLayer) -> None:
    layer.is_small = False


@pytest.mark.parametrize("change", [two_adapters, large])
def test_caches_that_take_much_memory_or_change_often_are_created_only_on_request(
    change: Callable[[ButterflyLayer], None],
) -> None:
    layer, x = butterfly_layer().eval(), torch.randn(1, 16)
    change(layer)
    with torch.no_grad():
        actual = layer(x)
        assert layer.cache.merged_layer is None
        layer.cache_weight = True
        assert not torch.equal(layer(x), actual)


def test_a_large_layer_is_recognised_by_its_number_of_weights() -> None:
    with torch.device("meta"):
        assert butterfly_layer(features=(2048, 4096)).is_small
        assert not butterfly_layer(features=(2048, 4097)).is_small


def test_a_weight_that_is_a_view_of_other_memory_is_not_copied() -> None:
    layer, x = butterfly_layer().eval(), torch.randn(2, 16)
    with torch.no_grad():
        expected = layer(x)
    base: Any = layer.train().eval().base_layer  # drops the caches
    shared = nn.Parameter(base.weight.detach().flatten().clone())
    base._parameters["weight"] = shared.view(32, 16)  # as in FSDP1, in its forward pass
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert layer.cache.merged_layer is None
