"""Flags from a file, and which of them the command line overrides."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_testing.train.command_lines import KNOWN, read, refusal
from slm_train.command_line.legacy_flags import LEGACY_VALUES


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def from_file(config: Path, text: str, *argv: str) -> list[str]:
    config.write_text(text, encoding="utf-8")
    return read("--config", str(config), *argv).argv


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: 1e-4", ["--learning_rate", "1e-4"]),
        ("learning_rate: 1.0e-4", ["--learning_rate", "0.0001"]),
        ("learning_rate: 0.0001", ["--learning_rate", "0.0001"]),
        ("weight_decay: -.inf", ["--weight_decay=-inf"]),
        ("run_name: 1.10", ["--run_name", "1.10"]),
        ("run_name: 2024-01-31", ["--run_name", "2024-01-31"]),
        ("run_name: 0777", ["--run_name", "0777"]),
        ("run_name: ''", ["--run_name", ""]),
        ("prompt: --once", ["--prompt=--once"]),
        ("max_steps: -1", ["--max_steps", "-1"]),
        ("bf16: true\nfp16: FALSE", ["--bf16", "true", "--fp16", "false"]),
        ("bf16: on\nfp16: off", ["--bf16", "true", "--fp16", "false"]),
        ("bf16: yes\nfp16: no", ["--bf16", "true", "--fp16", "no"]),
        ("save_strategy: no", ["--save_strategy", "no"]),
        ("--lora-r: 8", ["--lora_r", "8"]),
        ("lora_r: null\nlora_alpha:\n", []),
        ("target_modules: [c_attn, c_proj]", ["--target_modules", "c_attn", "c_proj"]),
        ("target_modules:\n- c_attn", ["--target_modules", "c_attn"]),
        ("lr_scheduler_kwargs: {a: 1e-4, b: {c: no}}", ["--lr_scheduler_kwargs", '{"a": "1e-4", "b": {"c": false}}']),
        ("no_cuda: true", ["--use_cpu", "true"]),
        ("no_log_on_each_node: true", ["--log_on_each_node", "false"]),
        ("# nothing yet\n", []),
        ("\ufefflora_r: 8", ["--lora_r", "8"]),
    ],
)
def test_a_file_of_flags_is_read_as_it_is_written(config: Path, text: str, expected: list[str]) -> None:
    assert from_file(config, text) == expected


def test_flags_of_the_file_come_first_and_count_as_set(config: Path) -> None:
    config.write_text("lora_r: 8\nevaluation_strategy: steps\n")
    line = read("stray", "--bf16", f"--config={config}", "other", "--mode", "lora")
    assert line.argv == ["stray", "other", "--lora_r", "8", "--eval_strategy", "steps", "--bf16", "--mode", "lora"]
    assert line.explicit_flags == {"lora_r", "eval_strategy", "bf16", "mode"}
    assert line.notes == ("--evaluation_strategy is now --eval_strategy",)


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("lora_r: 8", ["--lora_r", "4"]),
        ("lora-r: 8", ["--lora-r=4"]),
        ("target_modules: [c_attn, c_proj]", ["--target_modules", "q_proj"]),
        ("evaluation_strategy: steps", ["--eval_strategy", "no"]),
        ("eval_strategy: steps", ["--evaluation_strategy", "no"]),
        ("log_on_each_node: true", ["--no_log_on_each_node"]),
    ],
)
def test_a_flag_on_the_command_line_replaces_all_values_of_the_file(config: Path, text: str, argv: list[str]) -> None:
    assert from_file(config, text, *argv) == read(*argv).argv


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lora_r: 8\nlora_rnk: 8", "{}, line 2: unknown flag --lora_rnk; did you mean --lora_r?"),
        ("lora_rnk: null", "{}, line 1: unknown flag --lora_rnk; did you mean --lora_r?"),
        ("lora_r: 8\n\nbf16: [", "{} is not YAML: line 3: expected the node content, but found '<stream end>'"),
        ("lora_r: 8: 9", "{} is not YAML: line 1: mapping values are not allowed here"),
        ("lora_r: \x07", "{} is not YAML: unacceptable character #x0007: special characters are not allowed"),
        ("- lora_r", "{} must consist of lines such as 'learning_rate: 1e-4', one for each flag"),
        ("lora_r 8", "{} must consist of lines such as 'learning_rate: 1e-4', one for each flag"),
        ("lora_r: 8\nconfig: other.yaml", "{}, line 2: a file of flags cannot name another one"),
        ("lora_r: 8\nlora-r: 9", "{}, line 2: lora-r is set twice; keep one"),
        ("? [lora_r]\n: 8", "{}, line 1: the name of a flag must be a plain word"),
        ("target_modules: []", "{}, line 1: a list needs one or more plain values"),
        ("target_modules: [a, null]", "{}, line 1: a list needs one or more plain values"),
        ("target_modules: [[a]]", "{}, line 1: a list needs one or more plain values"),
        ("target_modules: [a, --b]", "{}, line 1: a value in a list cannot begin with a dash"),
        (
            "warmup_steps: 5\nwarmup_ratio: 0.1",
            "{}: --warmup_steps and --warmup_ratio are the same flag now; give --warmup_steps alone",
        ),
        ("save_safetensors: false", "{}: --save_safetensors false is not supported: " + "weights are always saved as"),
    ],
)
def test_an_error_in_the_file_is_one_sentence_that_names_file_and_line(config: Path, text: str, sentence: str) -> None:
    config.write_text(text, encoding="utf-8")
    assert refusal("--config", str(config)).startswith(sentence.format(config))


def test_a_missing_or_unreadable_file_is_refused(config: Path) -> None:
    assert refusal("--config", str(config)) == f"--config {config}: No such file or directory"
    assert refusal("--config", str(config.parent)).startswith(f"--config {config.parent}: ")
    config.write_bytes(b"prompt: caf\xe9")
    assert refusal("--config", str(config)).startswith(f"{config} is not YAML: 'utf-8' codec can't decode byte 0xe9")


@pytest.mark.parametrize("words", [["--config"], ["--config="], ["--config", "--bf16"], ["--config", "-h"]])
def test_config_needs_a_file(words: list[str]) -> None:
    assert refusal(*words) == "--config needs a file: --config run.yaml"


def test_config_may_be_given_once() -> None:
    assert refusal("--config", "a.yaml", "--config", "b.yaml") == "--config is given twice; put all flags in one file"


plain = st.text(st.characters(blacklist_categories=["Cs", "Cc"])) | st.integers() | st.booleans()
numbers = st.floats(allow_nan=False)
items = st.text("abc_.é 1", min_size=1) | st.integers(min_value=0) | st.booleans()
anything = plain | numbers | st.lists(items, min_size=2, max_size=4)
# LEGACY_VALUES are translated, and no_ flags are inverted: neither comes out as it went in.
stable = sorted(KNOWN - LEGACY_VALUES.keys() - {"no_log_on_each_node", "log_on_each_node", "config"})


def as_words(value: object) -> list[str]:
    if isinstance(value, list):
        return [word for item in value for word in as_words(item)]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def as_parsed(argv: list[str]) -> dict[str, list[str]]:
    """What argparse makes of it, each flag with any number of values."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in stable:
        parser.add_argument(f"--{name}", nargs="+", default=argparse.SUPPRESS)
    return dict(vars(parser.parse_args(argv)))


@settings(deadline=None)  # a busy machine is not a failure
@given(settings_in_file=st.dictionaries(st.sampled_from(stable), anything, max_size=6))
def test_argparse_gets_what_the_file_contains(
    tmp_path_factory: pytest.TempPathFactory, settings_in_file: dict[str, object]
) -> None:
    config = tmp_path_factory.getbasetemp() / "any.yaml"
    config.write_text(yaml.safe_dump(settings_in_file, allow_unicode=True), encoding="utf-8")
    line = read("--config", str(config))
    parsed = as_parsed(line.argv)
    assert line.explicit_flags == settings_in_file.keys() == parsed.keys()
    for name, value in settings_in_file.items():
        if isinstance(value, float):
            assert [float(word) for word in parsed[name]] == [value]
        else:
            assert parsed[name] == as_words(value)
    assert read(*line.argv).argv == line.argv
