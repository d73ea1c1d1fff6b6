"""The planned runs of a comparison: folders, seeds and command lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slm_lab.compare.command_lines import split_flags
from slm_lab.compare.plan import plan_runs
from slm_lab.compare.settings import EVALUATIONS, Budget, ComparisonSettings
from slm_lab.errors import LabError
from slm_lab.variants import Variant


def make_settings(**changes: Any) -> ComparisonSettings:
    defaults: dict[str, Any] = {
        "variants": tuple(map(Variant.parse, ("baseline", "lora", "butterfly_block"))),
        "budget": Budget("steps", 200),
        "seeds": (42, 43),
        "output_dir": Path("out"),
    }
    return ComparisonSettings(**defaults | changes)


def read_flags(argv: tuple[str, ...]) -> dict[str, str]:
    return {name: " ".join(words[1:]) for name, words in split_flags(argv)}


def test_all_modes_are_trained_with_a_seed_before_the_next_seed() -> None:
    runs = plan_runs(make_settings())
    assert [run.seed for run in runs] == [42, 42, 42, 43, 43, 43]
    assert (
        [run.variant.mode for run in runs[:3]]
        == [run.variant.mode for run in runs[3:]]
        == ["baseline", "lora", "butterfly_block"]
    )
    assert [(read_flags(run.argv)["mode"], read_flags(run.argv)["seed"]) for run in runs] == [
        (r.variant.mode, str(r.seed)) for r in runs
    ]


def test_further_seeds_have_new_folders_beside_those_of_the_first() -> None:
    one, three = (plan_runs(make_settings(seeds=seeds)) for seeds in ((42,), (42, 43, 44)))
    assert {run.folder: run.argv for run in one}.items() <= {run.folder: run.argv for run in three}.items()
    assert len({run.folder for run in three}) == len(three) == 9


def test_command_lines_of_modes_differ_in_mode_and_folder_alone() -> None:
    first, *others = plan_runs(make_settings(seeds=(7,), passed_on=("--bf16", "true")))
    differing = {"mode", "output_dir"}
    for run in others:
        pairs = read_flags(run.argv).items()
        assert {p for p in pairs if p[0] not in differing} == {
            p for p in read_flags(first.argv).items() if p[0] not in differing
        }


@pytest.mark.parametrize("steps", [1, 7, 8, 60, 200, 999])
def test_a_curve_has_about_eight_evaluations_for_any_number_of_steps(steps: int) -> None:
    argv = read_flags(plan_runs(make_settings(budget=Budget("steps", steps)))[0].argv)
    assert argv["max_steps"] == str(steps)
    evaluations = steps / int(argv["eval_steps"])
    assert min(steps, EVALUATIONS) / 2 < evaluations <= EVALUATIONS


def test_a_budget_of_tokens_is_trained_by_slm_train_dynamic_with_the_nearest_number_of_steps() -> None:
    argv = plan_runs(make_settings(budget=Budget("tokens", 100_000)))[0].argv
    assert argv[0] == "dynamic"
    assert read_flags(argv[1:])["target_tokens_per_step"] == "2048"
    assert read_flags(argv[1:])["max_steps"] == "49"
    chosen = plan_runs(make_settings(budget=Budget("tokens", 1000), passed_on=("--target_tokens_per_step", "300")))[
        0
    ].argv
    assert read_flags(chosen[1:])["target_tokens_per_step"] == "300"
    assert read_flags(chosen[1:])["max_steps"] == "3"


def test_a_budget_of_minutes_is_evaluated_at_shares_of_the_time() -> None:
    argv = read_flags(plan_runs(make_settings(budget=Budget("minutes", 2.5)))[0].argv)
    assert (argv["max_minutes"], argv["eval_steps"], "max_steps" in argv) == ("2.5", "0.125", False)


def test_the_built_in_sample_is_requested_by_naming_no_dataset() -> None:
    """Without --dataset, slm-train takes limits and learning rates for a short run; with it, those for a long one."""
    assert "dataset" not in read_flags(plan_runs(make_settings(dataset="sample"))[0].argv)
    assert read_flags(plan_runs(make_settings(dataset="tinystories"))[0].argv)["dataset"] == "tinystories"


def test_flags_that_some_modes_refuse_go_to_the_other_modes_alone() -> None:
    passed_on = ("--muon", "--butterfly_block_size", "64", "--load-in-4bit", "--block_size", "64")
    names_by_mode = {
        run.variant.mode: set(read_flags(run.argv)) for run in plan_runs(make_settings(seeds=(1,), passed_on=passed_on))
    }
    shared = {"muon", "butterfly_block_size", "load_in_4bit", "block_size"}
    assert {mode: names & shared for mode, names in names_by_mode.items()} == {
        "baseline": {"muon", "block_size"},
        "lora": {"load_in_4bit", "block_size"},
        "butterfly_block": {"butterfly_block_size", "load_in_4bit", "block_size"},
    }


@pytest.mark.parametrize("flag", ["--mode", "--eval-steps=5", "--resume_from_checkpoint", "--overwrite_output_dir"])
def test_flags_that_the_comparison_sets_are_refused_by_name(flag: str) -> None:
    with pytest.raises(LabError, match=r"^--(mode|eval_steps|resume_from_checkpoint|overwrite_output_dir) is set"):
        make_settings(passed_on=("--bf16", "true", flag))


def test_flags_for_checkpoints_are_passed_on_unchanged() -> None:
    argv = read_flags(plan_runs(make_settings(passed_on=("--save_strategy", "no")))[0].argv)
    assert "save_steps" not in argv
    assert read_flags(plan_runs(make_settings(passed_on=("--save_steps", "3")))[0].argv)["save_steps"] == "3"


def test_a_variant_has_a_folder_of_its_own_and_the_flags_of_its_options() -> None:
    variants = tuple(map(Variant.parse, ("lora:r=4", "dora", "butterfly:quality:stages=2", "oft:block_size=16")))
    runs = plan_runs(make_settings(variants=variants, seeds=(1, 2)))
    assert [run.name for run in runs[:4]] == ["lora-r4", "dora", "butterfly-quality-stages2", "oft-block_size16"]
    assert [run.name for run in runs[4:6]] == ["lora-r4-seed2", "dora-seed2"]
    flags = [read_flags(run.argv) for run in runs[:4]]
    assert [(flag["mode"], flag.get("lora_r"), flag.get("use_dora")) for flag in flags[:2]] == [
        ("lora", "4", None),
        ("lora", None, "true"),
    ]
    assert (flags[2]["butterfly_preset"], flags[2]["butterfly_stages"]) == ("quality", "2")
    assert (flags[3]["mode"], flags[3]["oft_block_size"]) == ("oft", "16")


@pytest.mark.parametrize(("variant", "flag"), [("lora:r=4", "--lora-r"), ("dora", "--use_dora=false")])
def test_a_flag_that_a_variant_sets_too_is_refused(variant: str, flag: str) -> None:
    with pytest.raises(LabError, match=r"is set by the variant (lora r=4|dora); remove one of them"):
        make_settings(variants=(Variant.parse("lora"), Variant.parse(variant)), passed_on=(flag, "8"))
