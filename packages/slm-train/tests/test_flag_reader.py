"""Flags before argparse reads them: one spelling, and a message for an unknown one."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_testing.train.command_lines import read, refusal
from slm_train.command_line.flag_names import unknown_flag
from slm_train.command_line.flag_reader import read_command_line
from slm_train.errors import UsageError


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--lora-r", "8"], ["--lora_r", "8"]),
        (["--lora-r=8"], ["--lora_r", "8"]),
        (["--prompt=a=b c"], ["--prompt", "a=b c"]),
        (["--prompt="], ["--prompt", ""]),
        (["--prompt=two\nlines"], ["--prompt", "two\nlines"]),
        (["--prompt", "- no, he said"], ["--prompt=- no, he said"]),
        (["--prompt", "-"], ["--prompt", "-"]),
        (["--prompt=-z", "stray"], ["stray", "--prompt=-z"]),
        (["--prompt=--help"], ["--prompt=--help"]),
        (["--past_index", "-1"], []),
        (["--max_steps", "-1"], ["--max_steps", "-1"]),
        (["--learning_rate", "-1e-3"], ["--learning_rate=-1e-3"]),
        (["--target-modules", "c_attn", "c_proj", "--bf16"], ["--target_modules", "c_attn", "c_proj", "--bf16"]),
        (["--no-log-on-each-node"], ["--log_on_each_node", "false"]),
        (["--no_log_on_each_node=false"], ["--log_on_each_node", "true"]),
        (["stray", "--bf16"], ["stray", "--bf16"]),
        (["--bf16", "--fp16_backend", "auto", "stray"], ["stray", "--bf16"]),
        (["--bf16", "-h"], ["-h", "--bf16"]),
        (["--help"], ["--help"]),
        (["--bf16", "--", "--lora_rnk"], ["--bf16", "--", "--lora_rnk"]),
        ([], []),
    ],
)
def test_a_flag_has_one_spelling(argv: list[str], expected: list[str]) -> None:
    assert read(*argv).argv == expected


def test_known_flags_may_be_spelled_with_dashes() -> None:
    known = ["-h", "--help", "--lora_r", "--lora-r"]
    assert read_command_line(["--lora-r", "8"], known).argv == ["--lora_r", "8"]
    with pytest.raises(UsageError, match="unknown flag --h;"):
        read_command_line(["--h"], known)


def test_explicit_flags_are_those_the_user_set_by_their_current_names() -> None:
    line = read("--lora-r", "8", "--no_cuda", "--fp16_backend", "apex", "--no_log_on_each_node")
    assert line.explicit_flags == {"lora_r", "use_cpu", "log_on_each_node"}


def test_argparse_reads_the_result() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--prompt")
    parser.add_argument("--target_modules", nargs="+")
    argv = read("--prompt=--x", "--target-modules=a", "b", "--learning-rate", "-1e-3").argv
    assert vars(parser.parse_args(argv)) == {"prompt": "--x", "target_modules": ["a", "b"], "learning_rate": -1e-3}


WORDS = ["--bf16", "--lora-r=8", "--no_cuda", "--warmup_ratio", "0.1", "-5", "-h", "x", "- y", "--prompt=-z"]


@settings(deadline=None)  # a busy machine is not a failure
@given(st.lists(st.sampled_from(WORDS)))
def test_a_second_reading_changes_nothing(argv: list[str]) -> None:
    try:
        once = read(*argv)
    except UsageError:
        return
    again = read(*once.argv)
    assert (again.argv, again.explicit_flags, again.notes) == (once.argv, once.explicit_flags, ())


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--lora_rnk", "unknown flag --lora_rnk; did you mean --lora_r?"),
        ("--lora-rnk=8", "unknown flag --lora-rnk; did you mean --lora_r?"),
        ("--mod", "unknown flag --mod; did you mean --mode?"),
        ("--epochs", "unknown flag --epochs; did you mean --num_train_epochs?"),
        ("--learn", "unknown flag --learn; did you mean --learning_rate?"),
        ("--evaluation_stratgy", "unknown flag --evaluation_stratgy; did you mean --eval_strategy?"),
        ("--Lora_R", "unknown flag --Lora_R; did you mean --lora_r?"),
        ("--zzz", "unknown flag --zzz; slm-train --help lists the flags"),
    ],
)
def test_an_unknown_flag_is_refused_with_the_most_similar_ones(flag: str, sentence: str) -> None:
    assert refusal(flag) == sentence


def test_at_most_three_flags_are_suggested() -> None:
    sentence = str(unknown_flag("eval", {"eval_steps", "eval_delay", "eval_strategy", "eval_on_start"}))
    assert sentence.count("--eval_") == 3
    assert " or " in sentence


def test_reading_a_command_line_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'numpy'}"
    code = f"import sys, slm_train.command_line.flag_reader; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
