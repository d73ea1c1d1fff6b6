"""The command line of ``slm-train dynamic``."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from slm_testing.train.budget_runs import dynamic
from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.cli import main
from slm_train.command_line.budget_flags import RENAMED, WITHOUT_EFFECT
from slm_train.command_line.parsing import parse_arguments
from slm_train.command_line.run_defaults import default_words
from slm_train.errors import UsageError
from slm_train.hardware.device_defaults import DeviceDefaults
from slm_train.options.budget import BudgetOptions

COMMAND = (
    "dynamic --dataset tinystories --mode lora --output_dir outputs/lora_dynamic --per_device_train_batch_size 4 "
    "--per_device_eval_batch_size 4 --max_train_samples 10000 --max_eval_samples 1000 --block_size 256 "
    "--target_tokens_per_step 512 --learning_rate 1.5e-4 --weight_decay 0.01 --lora_r 16 --lora_alpha 32 "
    "--lora_dropout 0.05 --num_train_epochs 1 --log_interval 50 --eval_interval 200 --resume_from_checkpoint"
)


def test_a_whole_command_line_is_read() -> None:
    arguments = parse_arguments(COMMAND.split())
    assert arguments.budget
    assert arguments.budget.target_tokens_per_step == 512
    assert (arguments.budget.log_interval, arguments.budget.eval_interval) == (50, 200)
    assert arguments.max_micro_batch_rows == 4
    assert arguments.training.resume_from_checkpoint == "true"
    assert arguments.rows.packing == "none"


def test_defaults_fit_the_loop() -> None:
    arguments = parse_arguments(["dynamic"])
    assert arguments.max_micro_batch_rows is None
    assert arguments.rows.packing == "none"
    assert parse_arguments(["dynamic", "--packing", "best_fit"]).rows.packing == "best_fit"


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_a_flag_without_effect_in_the_loop_is_refused_with_the_reason(name: str) -> None:
    value = [] if name == "streaming" else ["steps" if name.endswith("strategy") else "1"]
    with pytest.raises(UsageError) as raised:
        parse_arguments(["dynamic", f"--{name}", *value])
    assert str(raised.value) == f"--{name} has no effect in slm-train dynamic: {WITHOUT_EFFECT[name]}"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_flag_of_the_trainer_is_translated_to_its_name_in_the_loop(old: str, new: str) -> None:
    arguments = parse_arguments(["dynamic", f"--{old}", "7"])
    assert getattr(arguments.budget, new) == 7
    assert f"--{old} is --{new} in slm-train dynamic" in arguments.notes
    with pytest.raises(UsageError, match="are the same flag"):
        parse_arguments(["dynamic", f"--{old}", "7", f"--{new}", "7"])


@pytest.mark.parametrize("word", ["--target_tokens_per_step=5", "--log-interval", "--schedule_in"])
def test_a_flag_of_the_loop_is_refused_by_the_trainer_with_the_command_to_use(word: str) -> None:
    with pytest.raises(UsageError, match="slm-train dynamic"):
        parse_arguments([word])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--target_tokens_per_step", "0"), "--target_tokens_per_step 0 must be at least 1"),
        (("--log_interval", "0"), "--log_interval 0 must be at least 1"),
        (("--checkpoint_interval", "0"), "--checkpoint_interval 0 must be at least 1"),
        (("--checkpoint_interval", "often"), "--checkpoint_interval often must be a whole number, or auto"),
        (("--eval_interval", "-1"), "--eval_interval -1 must not be below 0"),
        (("--schedule_in", "centuries"), "choose from steps, tokens"),
        (("--max_tokens_per_micro_batch", "9"), "does not hold the longest row of 64 tokens"),
        (("--pad_to_multiple_of", "200"), "makes rows of 200 tokens"),
        (("--num_train_epochs", "0", "--max_steps", "-1"), "--num_train_epochs 0 must be above 0"),
    ],
)
def test_a_value_out_of_range_is_reported_in_one_sentence(
    tiny: Tiny, tmp_path: Path, refused: Refused, flags: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(dynamic(tiny, tmp_path, *flags))


def test_the_help_page_lists_only_flags_of_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dynamic", "--help"]) == 0
    page = capsys.readouterr().out
    listed = {line.split()[0].removeprefix("--") for line in page.splitlines() if line.startswith("  --")}
    assert {flag.name for flag in fields(BudgetOptions)} <= listed
    assert not listed & (WITHOUT_EFFECT.keys() | RENAMED.keys())
    assert max(map(len, page.splitlines())) <= 110
    assert main(["--help"]) == 0
    assert "slm-train dynamic" in capsys.readouterr().out


def test_the_sample_run_has_a_small_budget_unless_one_is_given() -> None:
    for words, tokens in (([], 1024), (["--target-tokens-per-step", "99"], 99), (["--dataset", "tinystories"], 4096)):
        budget = parse_arguments(["dynamic", *words]).budget
        assert budget
        assert budget.target_tokens_per_step == tokens


def test_the_long_help_page_of_the_loop_lists_no_flag_that_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dynamic", "--help_all"]) == 0
    page = capsys.readouterr().out
    listed = {line.split()[0].removeprefix("--") for line in page.splitlines() if line.startswith("  --")}
    assert not listed & (WITHOUT_EFFECT.keys() | RENAMED.keys())


def test_the_help_page_shows_the_defaults_of_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dynamic", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "Default: best_fit" not in page
    assert "at most 2 % of the training time. Default: 1 on a CPU, auto on a GPU." in page
    assert "outputs/<dataset>-<mode>-dynamic" in page


def test_the_help_page_counts_the_flags_that_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["dynamic"]):
        pages = []
        for flag in ("--help", "--help_all"):
            assert main([*command, flag]) == 0
            pages.append(capsys.readouterr().out)
        short, whole = ({line.split()[0] for line in page.splitlines() if line.startswith("  --")} for page in pages)
        assert f"--help_all has {len(whole - short)} more flags" in pages[0]


def test_checkpoints_are_chosen_by_their_cost_on_a_gpu_and_written_after_every_step_on_a_cpu() -> None:
    for device, expected in ((DeviceDefaults(False, True, "GPU"), "auto"), (DeviceDefaults(True, True, "CPU"), None)):
        words, _ = default_words(set(), device, dynamic=True)
        assert dict(pairwise(words)).get("--checkpoint_interval") == expected
        for explicit, is_dynamic in (({"checkpoint_interval"}, True), (set(), False)):
            assert "--checkpoint_interval" not in default_words(explicit, device, dynamic=is_dynamic)[0]
    budget = parse_arguments(["dynamic"]).budget
    assert budget
    assert budget.steps_between_checkpoints == 1


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_depends_on_evaluations_is_refused_with_an_alternative(kind: str) -> None:
    with pytest.raises(UsageError, match=f"{kind} follows evaluations.*--patience"):
        parse_arguments(["dynamic", "--lr_scheduler_type", kind])
