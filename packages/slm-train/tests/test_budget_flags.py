"""The command line of ``slm-train dynamic``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from slm_testing.train.dynamic_runs import dynamic
from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.arguments import BudgetOptions
from slm_train.budget_flags import MEANINGLESS, RENAMED
from slm_train.cli import main
from slm_train.flags import UsageError
from slm_train.parsing import parse

ISSUED = (
    "dynamic --dataset tinystories --mode lora --output_dir outputs/lora_dynamic --per_device_train_batch_size 4 "
    "--per_device_eval_batch_size 4 --max_train_samples 10000 --max_eval_samples 1000 --block_size 256 "
    "--target_tokens_per_step 512 --learning_rate 1.5e-4 --weight_decay 0.01 --lora_r 16 --lora_alpha 32 "
    "--lora_dropout 0.05 --num_train_epochs 1 --log_interval 50 --eval_interval 200 --resume_from_checkpoint"
)


def test_a_whole_command_line_is_read() -> None:
    found = parse(ISSUED.split())
    assert found.budget
    assert found.budget.target_tokens_per_step == 512
    assert (found.budget.log_interval, found.budget.eval_interval) == (50, 200)
    assert found.rows_of_micro_batch == 4
    assert found.training.resume_from_checkpoint == "true"
    assert found.rows.packing == "none"


def test_what_is_left_open_fits_the_loop() -> None:
    found = parse(["dynamic"])
    assert found.rows_of_micro_batch is None
    assert found.rows.packing == "none"
    assert parse(["dynamic", "--packing", "best_fit"]).rows.packing == "best_fit"


@pytest.mark.parametrize("name", sorted(MEANINGLESS))
def test_a_flag_without_a_meaning_there_is_refused_with_the_reason(name: str) -> None:
    value = [] if name == "streaming" else ["steps" if name.endswith("strategy") else "1"]
    with pytest.raises(UsageError) as raised:
        parse(["dynamic", f"--{name}", *value])
    assert str(raised.value) == f"--{name} has no meaning in slm-train dynamic: {MEANINGLESS[name]}"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_flag_of_the_trainer_is_taken_by_its_other_name(old: str, new: str) -> None:
    found = parse(["dynamic", f"--{old}", "7"])
    assert getattr(found.budget, new) == 7
    assert f"--{old} is --{new} in slm-train dynamic" in found.notes
    with pytest.raises(UsageError, match="are one flag"):
        parse(["dynamic", f"--{old}", "7", f"--{new}", "7"])


@pytest.mark.parametrize("word", ["--target_tokens_per_step=5", "--keep-best", "--patience"])
def test_a_flag_of_the_loop_is_refused_by_the_trainer_with_a_way_out(word: str) -> None:
    with pytest.raises(UsageError, match="slm-train dynamic"):
        parse([word])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--target_tokens_per_step", "0"), "--target_tokens_per_step 0 must be at least 1"),
        (("--log_interval", "0"), "--log_interval 0 must be at least 1"),
        (("--eval_interval", "-1"), "--eval_interval -1 must not be below 0"),
        (("--patience", "2"), "give --eval_interval with it"),
        (("--schedule_in", "centuries"), "choose from steps, tokens"),
        (("--max_tokens_per_micro_batch", "9"), "does not hold the longest row of 64 tokens"),
        (("--pad_to_multiple_of", "200"), "makes rows of 200 tokens"),
        (("--num_train_epochs", "0", "--max_steps", "-1"), "--num_train_epochs 0.0 must be above 0"),
    ],
)
def test_a_value_that_cannot_be_is_one_sentence(
    tiny: Tiny, tmp_path: Path, refused: Refused, flags: tuple[str, ...], said: str
) -> None:
    assert said in refused(dynamic(tiny, tmp_path, *flags))


def test_the_help_page_has_the_flags_of_the_loop_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dynamic", "--help"]) == 0
    page = capsys.readouterr().out
    listed = {line.split()[0].removeprefix("--") for line in page.splitlines() if line.startswith("  --")}
    assert {flag.name for flag in fields(BudgetOptions)} <= listed
    assert not listed & (MEANINGLESS.keys() | RENAMED.keys())
    assert max(map(len, page.splitlines())) <= 110
    assert main(["--help"]) == 0
    assert "slm-train dynamic" in capsys.readouterr().out


def test_the_demo_has_a_small_budget_unless_one_is_given() -> None:
    for words, tokens in (([], 1024), (["--target-tokens-per-step", "99"], 99), (["--dataset", "tinystories"], 4096)):
        found = parse(["dynamic", *words]).budget
        assert found
        assert found.target_tokens_per_step == tokens


def test_all_help_of_the_loop_has_no_flag_that_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dynamic", "--help_all"]) == 0
    page = capsys.readouterr().out
    listed = {line.split()[0].removeprefix("--") for line in page.splitlines() if line.startswith("  --")}
    assert not listed & (MEANINGLESS.keys() | RENAMED.keys())


def test_help_says_the_defaults_that_the_loop_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dynamic", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "Default: best_fit" not in page
    assert "Steps between checkpoints. Default: 1." in page
    assert "outputs/<dataset>-<mode>-dynamic" in page


def test_help_counts_the_flags_that_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["dynamic"]):
        pages = []
        for flag in ("--help", "--help_all"):
            assert main([*command, flag]) == 0
            pages.append(capsys.readouterr().out)
        short, whole = ({line.split()[0] for line in page.splitlines() if line.startswith("  --")} for page in pages)
        assert f"--help_all has {len(whole - short)} more flags" in pages[0]


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_waits_for_evaluations_is_refused_with_a_way_out(kind: str) -> None:
    with pytest.raises(UsageError, match=f"{kind} follows evaluations.*--patience"):
        parse(["dynamic", "--lr_scheduler_type", kind])
