"""Variants of modes: their syntax, names and flags."""

from __future__ import annotations

import pytest

from slm_lab.errors import LabError
from slm_lab.variants import NAMES, Variant, parse_variants


@pytest.mark.parametrize(
    ("text", "label", "folder", "flags"),
    [
        ("lora", "lora", "lora", {}),
        ("lora:r=4", "lora r=4", "lora-r4", {"lora_r": "4"}),
        ("lora:alpha=8.0:r=04", "lora r=4 alpha=8", "lora-r4-alpha8", {"lora_r": "4", "lora_alpha": "8"}),
        ("dora:r=2", "dora r=2", "dora-r2", {"use_dora": "true", "lora_r": "2"}),
        ("butterfly:quality", "butterfly quality", "butterfly-quality", {"butterfly_preset": "quality"}),
        ("butterfly:preset=speed", "butterfly speed", "butterfly-speed", {"butterfly_preset": "speed"}),
        (
            "butterfly_block:block_size=32",
            "butterfly_block block_size=32",
            "butterfly_block-block_size32",
            {"butterfly_block_size": "32"},
        ),
        ("oft:block_size=16", "oft block_size=16", "oft-block_size16", {"oft_block_size": "16"}),
        ("baseline:lr=1e-3", "baseline lr=0.001", "baseline-lr0.001", {"learning_rate": "0.001"}),
    ],
)
def test_a_variant_has_a_label_a_folder_and_flags(text: str, label: str, folder: str, flags: dict[str, str]) -> None:
    variant = Variant.parse(text)
    assert (variant.label, variant.folder, variant.flags) == (label, folder, flags)
    assert Variant.parse(variant.spelling) == variant
    assert not set(variant.folder) & set(' :/\\*?"<>|')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lorra", "'lorra' is not a mode; choose from baseline, lora"),
        ("lora:rank=4", "lora has no option 'rank=4'; it has r=, alpha=, lr="),
        ("lora:quality", "lora has no option 'quality'"),
        ("butterfly:fast", "butterfly has no option 'fast'; it has quality, speed, side=, stages=, lr="),
        ("butterfly:block_size=4", "butterfly has no option 'block_size=4'"),
        ("lora:r=0", "lora:r=0: the value of r must be a positive integer"),
        ("lora:r=", "the value of r must be a positive integer"),
        ("lora:alpha=nan", "the value of alpha must be a positive number"),
        ("butterfly:side=left", "must be one of input, output, both, auto"),
        ("lora:r=4:r=8", "'lora:r=4:r=8' sets r twice"),
        (",", "',' names no mode"),
    ],
)
def test_a_mistake_is_one_sentence_with_what_exists(text: str, message: str) -> None:
    with pytest.raises(LabError) as error:
        parse_variants(text)
    assert message in str(error.value)


def test_the_same_variant_in_two_spellings_counts_once() -> None:
    variants = parse_variants("butterfly:quality, lora ,butterfly:preset=quality,lora")
    assert [variant.label for variant in variants] == ["butterfly quality", "lora"]


def test_every_mode_of_slm_train_can_be_compared() -> None:
    from slm_train import MODES  # the names are repeated in slm_lab, whose flags import nothing heavy

    assert set(MODES) | {"dora"} == set(NAMES)
