from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_lab.errors import LabError
from slm_lab.plan import MOMENTS, Budget, Settings, difference, flags_in, plan

names = st.sampled_from(["block_size", "bf16", "train_file", "lora_r", "learning_rate"])
values = st.lists(st.text("abc019.", min_size=1, max_size=4), max_size=3)
flags = st.dictionaries(names, values, max_size=5)


def settings(**changes: Any) -> Settings:
    fixed = {
        "modes": ("baseline", "lora", "butterfly_block"),
        "budget": Budget("steps", 200),
        "seeds": (42, 43),
        "output_dir": Path("out"),
    }
    return Settings(**fixed | changes)


def of(argv: tuple[str, ...]) -> dict[str, str]:
    return {name: " ".join(words[1:]) for name, words in flags_in(argv)}


def words(given: dict[str, list[str]]) -> list[str]:
    return [word for name, own in given.items() for word in (f"--{name}", *own)]


def test_all_modes_are_trained_with_a_seed_before_the_next_seed() -> None:
    runs = plan(settings())
    assert [run.seed for run in runs] == [42, 42, 42, 43, 43, 43]
    assert [run.mode for run in runs[:3]] == [run.mode for run in runs[3:]] == ["baseline", "lora", "butterfly_block"]
    assert [(of(run.argv)["mode"], of(run.argv)["seed"]) for run in runs] == [(r.mode, str(r.seed)) for r in runs]


def test_more_seeds_later_are_other_folders_beside_those_that_are_there() -> None:
    one, three = (plan(settings(seeds=seeds)) for seeds in ((42,), (42, 43, 44)))
    assert {run.folder: run.argv for run in one}.items() <= {run.folder: run.argv for run in three}.items()
    assert len({run.folder for run in three}) == len(three) == 9


def test_modes_differ_in_nothing_but_mode_and_folder() -> None:
    first, *others = plan(settings(seeds=(7,), passed_on=("--bf16", "true")))
    own = {"mode", "output_dir"}
    for run in others:
        pairs = of(run.argv).items()
        assert {p for p in pairs if p[0] not in own} == {p for p in of(first.argv).items() if p[0] not in own}


@pytest.mark.parametrize("steps", [1, 7, 8, 60, 200, 999])
def test_a_curve_has_about_eight_moments_whatever_the_steps(steps: int) -> None:
    argv = of(plan(settings(budget=Budget("steps", steps)))[0].argv)
    assert argv["max_steps"] == str(steps)
    looks = steps / int(argv["eval_steps"])
    assert min(steps, MOMENTS) / 2 < looks <= MOMENTS


def test_a_budget_of_tokens_is_the_token_budget_loop_with_as_many_steps_as_come_nearest() -> None:
    argv = plan(settings(budget=Budget("tokens", 100_000)))[0].argv
    assert argv[0] == "dynamic"
    assert of(argv[1:])["target_tokens_per_step"] == "2048"
    assert of(argv[1:])["max_steps"] == "49"
    own = plan(settings(budget=Budget("tokens", 1000), passed_on=("--target_tokens_per_step", "300")))[0].argv
    assert of(own[1:])["target_tokens_per_step"] == "300"
    assert of(own[1:])["max_steps"] == "3"


def test_a_budget_of_minutes_has_its_evaluations_at_shares_of_the_time() -> None:
    argv = of(plan(settings(budget=Budget("minutes", 2.5)))[0].argv)
    assert (argv["max_minutes"], argv["eval_steps"], "max_steps" in argv) == ("2.5", "0.125", False)


def test_the_built_in_sample_is_what_slm_train_takes_where_no_texts_are_named() -> None:
    """With its limits and learning rates for a short run; named, it would have those of a long one."""
    assert "dataset" not in of(plan(settings(dataset="sample"))[0].argv)
    assert of(plan(settings(dataset="tinystories"))[0].argv)["dataset"] == "tinystories"


def test_flags_that_some_modes_refuse_go_to_the_others() -> None:
    given = ("--muon", "--butterfly_block_size", "64", "--load-in-4bit", "--block_size", "64")
    seen = {run.mode: set(of(run.argv)) for run in plan(settings(seeds=(1,), passed_on=given))}
    shared = {"muon", "butterfly_block_size", "load_in_4bit", "block_size"}
    assert {mode: names & shared for mode, names in seen.items()} == {
        "baseline": {"muon", "block_size"},
        "lora": {"load_in_4bit", "block_size"},
        "butterfly_block": {"butterfly_block_size", "load_in_4bit", "block_size"},
    }


@pytest.mark.parametrize("flag", ["--mode", "--eval-steps=5", "--resume_from_checkpoint", "--overwrite_output_dir"])
def test_what_the_comparison_decides_is_refused_by_name(flag: str) -> None:
    with pytest.raises(LabError, match=r"^--(mode|eval_steps|resume_from_checkpoint|overwrite_output_dir) is decided"):
        settings(passed_on=("--bf16", "true", flag))


def test_the_checkpoints_that_the_user_asks_for_are_not_overruled() -> None:
    argv = of(plan(settings(passed_on=("--save_strategy", "no")))[0].argv)
    assert "save_steps" not in argv
    assert of(plan(settings(passed_on=("--save_steps", "3")))[0].argv)["save_steps"] == "3"


@given(flags)
def test_a_command_line_does_not_differ_from_itself_in_another_order_or_spelling(given: dict[str, list[str]]) -> None:
    backwards = words(dict(reversed(given.items())))
    assert difference(words(given), backwards) is None
    dashed = [word.replace("_", "-") if word.startswith("--") else word for word in words(given)]
    assert difference(words(given), dashed) is None


@given(flags, flags)
def test_a_difference_names_a_flag_that_differs(one: dict[str, list[str]], other: dict[str, list[str]]) -> None:
    said = difference(words(one), words(other))
    differing = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    assert bool(said) == bool(differing)
    assert not said or any(f"--{name}" in said for name in differing)


def test_where_and_with_how_many_threads_a_run_is_computed_is_no_difference() -> None:
    assert difference(["--output_dir", "a", "--threads", "1"], ["--output_dir", "b", "--threads", "2"]) is None


def test_a_value_after_an_equals_sign_is_the_same_value() -> None:
    assert difference(["--lora_r=4"], ["--lora_r", "4"]) is None
    assert difference(["--lora_r=4"], ["--lora_r", "8"]) == "--lora_r 4, now it is --lora_r 8"
