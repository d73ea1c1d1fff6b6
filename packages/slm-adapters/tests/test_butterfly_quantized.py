"""Butterfly adapters over 4-bit and 8-bit bases."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
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
    tiny: MakeModel, name: str, kind: str, input_ids: Tensor, tmp_path: Path
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


MODES = [(training, recorded) for training in (True, False) for recorded in (True, False)]


def in_each_mode(model: nn.Module, input_ids: Tensor) -> list[Tensor]:
    """Return logits in training and in evaluation, with and without a recorded gradient, of ten tokens and of one."""
    outputs = []
    for training, recorded in MODES:
        model.train(training)
        with torch.set_grad_enabled(recorded):
            outputs += [model(input_ids=ids, use_cache=False).logits.detach() for ids in (input_ids, input_ids[:1, :1])]
    return outputs


@pytest.mark.parametrize(
    "config",
    [lambda: four_bit_config(torch.float32), lambda: four_bit_config(torch.bfloat16), eight_bit_config],
    ids=["4-bit float32", "4-bit bfloat16", "8-bit"],
)
@pytest.mark.parametrize("side", ["input", "both"])
def test_training_starts_at_the_quantized_base_bit_for_bit_in_each_mode(
    tiny: MakeModel, config: Callable[[], BitsAndBytesConfig], side: str, input_ids: Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    tiny("llama").save_pretrained(tmp_path)
    plain, kept, base = (AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config()) for _ in range(3))
    for layer in kept.modules():
        keep_layout(layer)
    actual = in_each_mode(butterfly(base, side=side, scale=True), input_ids)
    assert all(torch.equal(one, other) for one, other in zip(actual, in_each_mode(kept, input_ids), strict=True))
    # On a CPU with AVX512-BF16 the plain base changes to another kernel in evaluation, and the adapted one does not.
    expected = in_each_mode(plain, input_ids)
    in_training = len(actual) // 2
    assert all(torch.equal(one, other) for one, other in zip(actual[:in_training], expected[:in_training], strict=True))
    for one, other in zip(actual[in_training:], expected[in_training:], strict=True):
        assert (one - other).abs().max() < 0.02 * other.abs().max()


@pytest.mark.parametrize("kind", ["4-bit", "8-bit"])
def test_a_quantized_base_gives_the_gradients_of_the_dequantized_base(
    tiny: MakeModel, kind: str, input_ids: Tensor, tmp_path: Path
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
    tiny: MakeModel, input_ids: Tensor, tmp_path: Path
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
