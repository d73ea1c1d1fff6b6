"""``--match parameters``: chosen settings, their counts, and what is said about poor matches."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_lab.compare.matching import TOLERANCE, match_parameters, with_matches
from slm_lab.compare.plan import plan_runs
from slm_lab.compare.settings import Budget, ComparisonSettings
from slm_lab.errors import LabError
from slm_lab.variants import Variant, parse_variants


def settings_of(modes: str, *passed_on: str) -> ComparisonSettings:
    return ComparisonSettings(parse_variants(modes), Budget("steps", 8), (42,), Path("out"), passed_on=passed_on)


@pytest.fixture(scope="module")
def matched() -> dict[str, tuple[int, str]]:
    """The parameters and notes of variants matched to the butterfly on the built-in base, by label."""
    modes = "baseline,butterfly,butterfly:quality,qlora,dora,oft,lora:r=4"
    matches = match_parameters(settings_of(modes), None)
    return {match.variant.label: (match.parameters, match.note) for match in matches}


def test_ranks_and_stages_are_chosen_to_train_as_many_parameters_as_the_butterfly(
    matched: dict[str, tuple[int, str]],
) -> None:
    # The built-in base: 6 blocks of width 256. A butterfly has 8 stages of 128 angles in each of 4 layers of a block.
    assert matched["butterfly"] == (6 * 4 * 8 * 128, "reference")
    inputs_and_outputs = (256 + 768) + (256 + 256) + 2 * (256 + 1024)
    assert matched["qlora r=1"] == (6 * inputs_and_outputs, "")
    outputs, inputs = 768 + 256 + 1024 + 256, 3 * 256 + 1024
    assert matched["butterfly quality stages=1"] == (6 * (inputs_and_outputs // 2 + outputs), "")
    assert matched["dora r=1"] == (
        6 * (inputs_and_outputs + outputs),
        "56% more than the reference; nothing is nearer",
    )
    assert matched["oft block_size=4"] == (6 * inputs * 3 // 2, "34% fewer than the reference; nothing is nearer")


def test_what_cannot_be_matched_is_kept_and_said(matched: dict[str, tuple[int, str]]) -> None:
    assert matched["baseline"][1] == "trains every weight"
    assert matched["lora r=4"] == (4 * matched["qlora r=1"][0], "as given; 300% more than the reference")


def test_the_butterfly_is_matched_to_a_rank_if_that_is_the_reference() -> None:
    settings = settings_of("butterfly,lora:r=4")
    butterfly, lora = match_parameters(settings, Variant.parse("lora:r=4"))
    assert lora.note == "reference"
    assert butterfly.variant.sets("preset")  # the narrower side has too few angles, whatever the stages
    assert abs(butterfly.parameters / lora.parameters - 1) <= TOLERANCE
    assert not butterfly.note


def test_flags_that_change_what_is_adapted_change_the_counts_and_the_chosen_settings_are_those_of_the_runs() -> None:
    settings = settings_of("butterfly,lora", "--target_modules", "c_fc")
    matches = match_parameters(settings, None)
    assert [match.parameters for match in matches] == [6 * 8 * 128, 6 * (256 + 1024)]
    names = [run.name for run in plan_runs(with_matches(settings, matches))]
    assert names == ["butterfly", "lora-r1"]


@pytest.mark.parametrize(
    ("modes", "flags", "message"),
    [
        ("butterfly,lora", ("--target_modules", "q_proj"), "butterfly: target module 'q_proj' matches no linear layer"),
        ("butterfly,oft:block_size=24", (), "oft block_size=24: --oft_block_size 24 does not divide the input widths"),
        ("butterfly,lora", ("--model_path", "./gone"), "gone"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_with_the_reason(
    modes: str, flags: tuple[str, ...], message: str
) -> None:
    with pytest.raises(LabError) as error:
        match_parameters(settings_of(modes, *flags), None)
    assert message in str(error.value)
