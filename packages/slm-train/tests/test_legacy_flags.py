"""Flags of transformers 4, translated to current ones or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_testing.train.command_lines import CURRENT_NAMES, TRANSFORMERS_4_FLAGS, names_of, read, refusal
from slm_train.command_line.flag_reader import read_command_line
from slm_train.command_line.flag_types import Removed, Renamed, Share, Switch
from slm_train.command_line.legacy_flags import LEGACY_FLAGS, LEGACY_VALUES, OWNER, REPOSITORY


@pytest.mark.parametrize("old", sorted({*names_of(Renamed)} - {OWNER}))
@pytest.mark.parametrize("words", [("{}", "7"), ("{}=7",), ("{}",)])
def test_a_renamed_flag_keeps_its_values(old: str, words: tuple[str, ...]) -> None:
    new = LEGACY_FLAGS[old]
    assert isinstance(new, Renamed)
    line = read(*(word.format(f"--{old}") for word in words))
    assert line.argv == [f"--{new.new}", *(["7"] if "7" in "".join(words) else [])]
    assert line.explicit_flags == {new.new}
    assert line.notes == (f"--{old} is now --{new.new}",)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--no_cuda"], ["--use_cpu"]),
        (["--no-cuda", "true"], ["--use_cpu", "true"]),
        (["--no_cuda=true"], ["--use_cpu", "true"]),
        (["--no_cuda", "false"], ["--use_cpu", "false"]),
        (["--no_cuda", "--bf16"], ["--use_cpu", "--bf16"]),
    ],
)
def test_no_cuda_is_use_cpu(words: list[str], expected: list[str]) -> None:
    assert read(*words).argv == expected


@pytest.mark.parametrize("old", names_of(Switch))
@pytest.mark.parametrize("on", [[], ["true"], ["Yes"], ["1"]])
def test_a_switch_becomes_a_value(old: str, on: list[str]) -> None:
    new = LEGACY_FLAGS[old]
    assert isinstance(new, Switch)
    line = read(f"--{old}", *on, "--bf16")
    assert line.argv == [f"--{new.new}", new.value, "--bf16"]
    assert line.notes == (f"--{old} is now --{new.new} {new.value}",)


@pytest.mark.parametrize("old", names_of(Switch))
def test_a_switch_that_is_off_is_ignored_and_does_not_count_as_set(old: str) -> None:
    line = read(f"--{old}", "false")
    assert (line.argv, line.explicit_flags, len(line.notes)) == ([], frozenset(), 1)


@pytest.mark.parametrize("old", [*names_of(Switch), "split_batches", "dispatch_batches", "no_log_on_each_node"])
def test_a_switch_takes_true_or_false(old: str) -> None:
    assert refusal(f"--{old}", "perhaps") == f"--{old} takes true or false, not 'perhaps'"


@pytest.mark.parametrize("old", names_of(Share))
@pytest.mark.parametrize(("value", "expected"), [("0.06", "0.06"), ("0", "0"), ("1e-2", "1e-2"), ("1", "0.9999999999")])
def test_a_share_stays_a_share(old: str, value: str, expected: str) -> None:
    line = read(f"--{old}", value)
    assert line.argv == ["--warmup_steps", expected]
    assert line.notes == (f"--{old} is now --warmup_steps {expected}",)


@pytest.mark.parametrize("value", ["6", "-0.1", "half", "nan", ""])
def test_a_share_is_from_0_to_1(value: str) -> None:
    assert refusal(f"--warmup_ratio={value}") == f"--warmup_ratio takes a share from 0 to 1, not {value!r}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--split_batches"], ["--accelerator_config", '{"split_batches": true}']),
        (["--dispatch_batches", "False"], ["--accelerator_config", '{"dispatch_batches": false}']),
        (
            ["--fsdp_min_num_params", "2000"],
            ["--fsdp_config", '{"min_num_params": 2000, "auto_wrap_policy": "SIZE_BASED_WRAP"}'],
        ),
        (
            ["--fsdp_transformer_layer_cls_to_wrap", "GPT2Block"],
            ["--fsdp_config", '{"transformer_layer_cls_to_wrap": "GPT2Block"}'],
        ),
    ],
)
def test_a_flag_becomes_an_entry(words: list[str], expected: list[str]) -> None:
    line = read(*words)
    assert line.argv == expected
    assert line.notes == (f"{words[0]} is now {expected[0]} '{expected[1]}'",)


def test_an_entry_needs_its_value() -> None:
    assert refusal("--fsdp_min_num_params") == "--fsdp_min_num_params needs a value"


@pytest.mark.parametrize("old", names_of(Removed))
def test_a_removed_flag_is_ignored_with_a_note_if_that_changes_nothing(old: str) -> None:
    removed = LEGACY_FLAGS[old]
    assert isinstance(removed, Removed)
    value = "auto" if removed.ignorable is None else sorted(removed.ignorable)[-1]
    line = read(f"--{old}", value, "--bf16")
    assert (line.argv, line.explicit_flags) == (["--bf16"], {"bf16"})
    assert line.notes == (f"--{old} is ignored: {removed.reason}",)


@pytest.mark.parametrize(
    "words",
    [
        ["--save_safetensors", "false"],
        ["--no_save_safetensors"],
        ["--past_index", "2"],
        ["--sharded_ddp", "zero_dp_2"],
    ],
)
def test_a_removed_flag_is_refused_if_ignoring_it_would_change_the_run(words: list[str]) -> None:
    assert refusal(*words).startswith(f"{' '.join(words)} is not supported: ")


def test_weights_are_never_pickled() -> None:
    assert "never as pickle" in refusal("--save_safetensors=no")
    assert read("--save_safetensors").argv == []


@pytest.mark.parametrize(("flag", "old"), [(flag, old) for flag, olds in LEGACY_VALUES.items() for old in olds])
def test_a_legacy_value_becomes_the_current_one(flag: str, old: str) -> None:
    words = [f"--{flag}", *([old] if old else [])]
    line = read(*words, "--bf16")
    assert line.argv == [f"--{flag}", LEGACY_VALUES[flag][old], "--bf16"]
    assert line.notes == (f"{' '.join(words)} is now --{flag} {LEGACY_VALUES[flag][old]}",)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([f"--{OWNER}", "acme", f"--{REPOSITORY}", "tiny"], ["--hub_model_id", "acme/tiny"]),
        ([f"--{OWNER}", "acme", "--output_dir", "out/run"], ["--output_dir", "out/run", "--hub_model_id", "acme/run"]),
    ],
)
def test_the_owner_of_a_repository_is_joined_with_its_name(words: list[str], expected: list[str]) -> None:
    assert read(*words).argv == expected


def test_an_owner_without_a_name_is_refused() -> None:
    sentence = refusal(f"--{OWNER}", "acme")
    assert sentence == f"--{OWNER} needs the name of a repository: give --hub_model_id acme/NAME instead"


@pytest.mark.parametrize(
    ("words", "both"),
    [
        (["--evaluation_strategy", "no", "--eval-strategy", "no"], "--evaluation_strategy and --eval-strategy"),
        (["--warmup_steps", "5", "--warmup_ratio", "0.1"], "--warmup_steps and --warmup_ratio"),
        (["--adafactor", "--optim", "adamw_hf"], "--adafactor and --optim"),
        (["--split_batches", "--dispatch_batches", "true"], "--split_batches and --dispatch_batches"),
    ],
)
def test_legacy_and_current_name_together_are_refused(words: list[str], both: str) -> None:
    assert refusal(*words).startswith(f"{both} are the same flag now; give --")


def test_a_flag_given_twice_by_the_same_name_is_left_to_argparse() -> None:
    assert read("--no_cuda", "--no-cuda").argv == ["--use_cpu", "--use_cpu"]
    assert read("--no_cuda", "--no-cuda").notes == ("--no_cuda is now --use_cpu", "--no-cuda is now --use_cpu")


def test_a_name_that_the_parser_knows_is_not_translated() -> None:
    line = read_command_line(["--logging_dir", "logs"], {"logging_dir"})
    assert (line.argv, line.notes) == (["--logging_dir", "logs"], ())


def test_overwrite_output_dir_is_ours() -> None:
    assert read("--overwrite_output_dir").argv == ["--overwrite_output_dir"]


def test_every_translation_gives_a_flag_and_a_value_of_the_installed_trainer() -> None:
    from dataclasses import fields

    from transformers import TrainingArguments
    from transformers.training_args import OptimizerNames

    installed = {field.name for field in fields(TrainingArguments)}
    assert (CURRENT_NAMES - {"no_log_on_each_node"} | LEGACY_VALUES.keys()) <= installed
    assert not installed & LEGACY_FLAGS.keys()
    assert not TRANSFORMERS_4_FLAGS - installed - LEGACY_FLAGS.keys() - {"overwrite_output_dir"}
    optimizers = {name.value for name in OptimizerNames}
    assert {*LEGACY_VALUES["optim"].values(), "adafactor"} <= optimizers
    assert not optimizers & LEGACY_VALUES["optim"].keys()


@pytest.mark.parametrize(("share", "steps"), [("0", 0), ("0.1", 100), ("1", 1000)])
def test_a_share_warms_up_as_long_as_it_did(tmp_path: Path, share: str, steps: int) -> None:
    from transformers import TrainingArguments

    value = float(read("--warmup_ratio", share).argv[1])
    assert TrainingArguments(str(tmp_path), warmup_steps=value, use_cpu=True).get_warmup_steps(1000) == steps
