"""Butterfly adapters over 4-bit and 8-bit bases."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from slm_adapters import four_bit_config
from slm_adapters.base.quantization import keep_layout
from slm_adapters.layer_laws import unmerge_restores
from slm_testing.adapters.tiny_adapters import (
    MakeModel,
    assert_differ,
    assert_same_bits,
    butterfly,
    copy_state,
    layers,
    logits,
    random_butterfly,
    randomize_angles,
)


def eight_bit_config() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_8bit=True)


@pytest.mark.parametrize("kind", ["4-bit", "8-bit"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_quantized_base_is_adapted_merged_and_restored(
    tiny: MakeModel, name: str, kind: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    tiny(name).save_pretrained(tmp_path)
    config = four_bit_config(torch.float32) if kind == "4-bit" else eight_bit_config()
    base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config).eval()
    for layer in base.modules():
        keep_layout(layer)  # the kernel of repacked layers rounds differently
    before = logits(base, input_ids)
    adapted = butterfly(base, side="both", scale=True)
    assert torch.equal(logits(adapted, input_ids), before)
    randomize_angles(adapted)
    unmerged, state = logits(adapted, input_ids), copy_state(adapted)
    assert_differ(unmerged, before)
    logits(adapted, input_ids[:1, :1])
    assert all(layer.cache.merged_layer is None for layer in layers(adapted).values())
    adapted.cache_weights()  # a rotated weight would be quantized again, so only the rotation is cached
    assert torch.equal(logits(adapted, input_ids), unmerged)
    adapted.merge_adapter()
    merged = logits(adapted, input_ids)
    assert torch.corrcoef(torch.stack([merged.flatten(), unmerged.flatten()]))[0, 1] > 0.95
    adapted.unmerge_adapter()
    assert_same_bits(copy_state(adapted), state)
    assert torch.equal(logits(adapted, input_ids), unmerged)
    for layer in layers(adapted).values():
        unmerge_restores(layer)


@pytest.mark.parametrize("kind", ["4-bit", "8-bit"])
def test_a_quantized_base_gives_the_gradients_of_the_dequantized_base(
    tiny: MakeModel, kind: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    tiny("llama").save_pretrained(tmp_path)
    config = four_bit_config(torch.float32) if kind == "4-bit" else eight_bit_config()
    quantized = random_butterfly(
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config), side="both"
    )
    dequantized = random_butterfly(
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config).dequantize(), side="both"
    )
    actual, expected = [], []
    for model, gradients in ((quantized, actual), (dequantized, expected)):
        model.train()(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        gradients += [values.grad.flatten() for values in model.parameters() if values.grad is not None]
    assert len(actual) == len(expected) == 2 * 7 * 2  # blocks, layers of a block, sides
    assert torch.corrcoef(torch.stack([torch.cat(actual), torch.cat(expected)]))[0, 1] > 0.99


def test_a_base_that_an_evaluation_has_repacked_is_adapted_like_any_other(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    """bitsandbytes repacks on CPUs with AVX512-BF16; here it is done explicitly, for any CPU."""
    functional = pytest.importorskip("bitsandbytes").functional
    tiny("llama").save_pretrained(tmp_path)
    repacked, fresh = (
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=four_bit_config(torch.float32))
        for _ in range(2)
    )
    for layer in repacked.modules():
        if hasattr(layer, "quant_state"):
            weight = layer.weight
            weight.data, weight.quant_state = functional._convert_weight_packed_for_cpu(weight.data, weight.quant_state)
    actual, expected = (random_butterfly(base, side="both") for base in (repacked, fresh))
    for model in (actual, expected):
        model.eval()(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
    state = copy_state(actual)
    torch.testing.assert_close(logits(actual, input_ids), logits(expected, input_ids), rtol=0.05, atol=0.02)
    pairs = zip(actual.parameters(), expected.parameters(), strict=True)
    gradients = [(one.grad.flatten(), other.grad.flatten()) for one, other in pairs if other.grad is not None]
    assert torch.corrcoef(torch.stack([torch.cat(side) for side in zip(*gradients, strict=True)]))[0, 1] > 0.99
    assert_same_bits(copy_state(actual), state)
