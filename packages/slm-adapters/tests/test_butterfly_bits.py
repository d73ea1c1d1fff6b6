"""Butterfly adapters over 4-bit and 8-bit bases."""

from pathlib import Path

import pytest
import torch
from tiny_adapters import Tiny, assert_differ, assert_same_bits, bits, butterfly, layers, logits, stir, stirred
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from slm_adapters import four_bit_config
from slm_adapters.layer_laws import unmerge_restores


def eight_bit_config() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_8bit=True)


@pytest.mark.parametrize("kind", ["4-bit", "8-bit"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_base_in_few_bits_is_adapted_merged_and_restored(
    tiny: Tiny, name: str, kind: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    tiny(name).save_pretrained(tmp_path)
    config = four_bit_config(torch.float32) if kind == "4-bit" else eight_bit_config()
    base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config).eval()
    before = logits(base, input_ids)
    adapted = butterfly(base, side="both", scale=True)
    assert torch.equal(logits(adapted, input_ids), before)
    stir(adapted)
    unmerged, held = logits(adapted, input_ids), bits(adapted)
    assert_differ(unmerged, before)
    logits(adapted, input_ids[:1, :1])
    assert all(layer._kept_layer is None for layer in layers(adapted).values())
    adapted.cache_weights()  # a rotated weight would be rounded again: the rotation is kept
    assert torch.equal(logits(adapted, input_ids), unmerged)
    adapted.merge_adapter()
    merged = logits(adapted, input_ids)
    assert torch.corrcoef(torch.stack([merged.flatten(), unmerged.flatten()]))[0, 1] > 0.95
    adapted.unmerge_adapter()
    assert_same_bits(bits(adapted), held)
    assert torch.equal(logits(adapted, input_ids), unmerged)
    for layer in layers(adapted).values():
        unmerge_restores(layer)


@pytest.mark.parametrize("kind", ["4-bit", "8-bit"])
def test_a_base_in_few_bits_gives_the_gradients_of_its_dequantised_self(
    tiny: Tiny, kind: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    tiny("llama").save_pretrained(tmp_path)
    config = four_bit_config(torch.float32) if kind == "4-bit" else eight_bit_config()
    small = stirred(AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config), side="both")
    whole = stirred(
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config).dequantize(), side="both"
    )
    found, wanted = [], []
    for model, gradients in ((small, found), (whole, wanted)):
        model.train()(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        gradients += [values.grad.flatten() for values in model.parameters() if values.grad is not None]
    assert len(found) == len(wanted) == 2 * 7 * 2  # blocks, layers of a block, sides
    assert torch.corrcoef(torch.stack([torch.cat(found), torch.cat(wanted)]))[0, 1] > 0.99
