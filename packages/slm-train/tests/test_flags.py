"""Flags on their way to argparse: a file, old names, one spelling; and a sentence for each mistake."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_train.flags import CommandLine, UsageError, read_command_line, unknown_flag
from slm_train.old_flags import OLD_FLAGS, OLD_VALUES, OWNER, REPOSITORY, Gone, Renamed, Share, Switch

# Every field of TrainingArguments in transformers 4.24, 4.30 and 4.36: late 2022 to late 2023.
FLAGS_OF_2023 = set(
    """
adafactor adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size bf16 bf16_full_eval data_seed
dataloader_drop_last dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory ddp_backend
ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_timeout debug deepspeed disable_tqdm
dispatch_batches do_eval do_predict do_train eval_accumulation_steps eval_delay eval_steps
evaluation_strategy fp16 fp16_backend fp16_full_eval fp16_opt_level fsdp fsdp_config fsdp_min_num_params
fsdp_transformer_layer_cls_to_wrap full_determinism gradient_accumulation_steps gradient_checkpointing
gradient_checkpointing_kwargs greater_is_better group_by_length half_precision_backend hub_always_push
hub_model_id hub_private_repo hub_strategy hub_token ignore_data_skip include_inputs_for_metrics
include_num_input_tokens_seen include_tokens_per_second jit_mode_eval label_names label_smoothing_factor
learning_rate length_column_name load_best_model_at_end local_rank log_level log_level_replica
log_on_each_node logging_dir logging_first_step logging_nan_inf_filter logging_steps logging_strategy
lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model mp_parameters
neftune_noise_alpha no_cuda num_train_epochs optim optim_args output_dir overwrite_output_dir past_index
per_device_eval_batch_size per_device_train_batch_size per_gpu_eval_batch_size per_gpu_train_batch_size
prediction_loss_only push_to_hub push_to_hub_model_id push_to_hub_organization push_to_hub_token ray_scope
remove_unused_columns report_to resume_from_checkpoint run_name save_on_each_node save_only_model
save_safetensors save_steps save_strategy save_total_limit seed sharded_ddp skip_memory_metrics
split_batches tf32 torch_compile torch_compile_backend torch_compile_mode torchdynamo tpu_metrics_debug
tpu_num_cores use_cpu use_ipex use_legacy_prediction_loop use_mps_device warmup_ratio warmup_steps
weight_decay xpu_backend
""".split()  # noqa: SIM905 (a list of as many quotes is no easier to read)
)
OURS = {"mode", "lora_r", "lora_alpha", "target_modules", "overwrite_output_dir", "prompt", "config"}
NEW = {old.new for old in OLD_FLAGS.values() if not isinstance(old, Gone)} | {"no_log_on_each_node"}
KNOWN = ((FLAGS_OF_2023 | OURS) - OLD_FLAGS.keys()) | NEW


def read(*argv: str) -> CommandLine:
    return read_command_line(argv, KNOWN)


def refusal(*argv: str) -> str:
    with pytest.raises(UsageError) as refused:
        read(*argv)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def names_of(kind: type) -> list[str]:
    return [name for name, old in OLD_FLAGS.items() if isinstance(old, kind)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def from_file(config: Path, text: str, *argv: str) -> list[str]:
    config.write_text(text, encoding="utf-8")
    return read("--config", str(config), *argv).argv


# One spelling.


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


def test_known_flags_may_come_as_argparse_spells_them() -> None:
    known = ["-h", "--help", "--lora_r", "--lora-r"]
    assert read_command_line(["--lora-r", "8"], known).argv == ["--lora_r", "8"]
    with pytest.raises(UsageError, match="unknown flag --h;"):
        read_command_line(["--h"], known)


def test_given_holds_what_the_user_set_by_the_names_of_today() -> None:
    line = read("--lora-r", "8", "--no_cuda", "--fp16_backend", "apex", "--no_log_on_each_node")
    assert line.given == {"lora_r", "use_cpu", "log_on_each_node"}


def test_argparse_reads_what_comes_out() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning_rate", type=float)
    parser.add_argument("--prompt")
    parser.add_argument("--target_modules", nargs="+")
    argv = read("--prompt=--x", "--target-modules=a", "b", "--learning-rate", "-1e-3").argv
    assert vars(parser.parse_args(argv)) == {"prompt": "--x", "target_modules": ["a", "b"], "learning_rate": -1e-3}


WORDS = ["--bf16", "--lora-r=8", "--no_cuda", "--warmup_ratio", "0.1", "-5", "-h", "x", "- y", "--prompt=-z"]


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.sampled_from(WORDS)))
def test_a_second_reading_changes_nothing(argv: list[str]) -> None:
    try:
        once = read(*argv)
    except UsageError:
        return
    again = read(*once.argv)
    assert (again.argv, again.given, again.notes) == (once.argv, once.given, ())


# The names of 2023.


@pytest.mark.parametrize("old", sorted({*names_of(Renamed)} - {OWNER}))
@pytest.mark.parametrize("words", [("{}", "7"), ("{}=7",), ("{}",)])
def test_a_renamed_flag_keeps_its_values(old: str, words: tuple[str, ...]) -> None:
    new = OLD_FLAGS[old]
    assert isinstance(new, Renamed)
    line = read(*(word.format(f"--{old}") for word in words))
    assert line.argv == [f"--{new.new}", *(["7"] if "7" in "".join(words) else [])]
    assert line.given == {new.new}
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
    new = OLD_FLAGS[old]
    assert isinstance(new, Switch)
    line = read(f"--{old}", *on, "--bf16")
    assert line.argv == [f"--{new.new}", new.value, "--bf16"]
    assert line.notes == (f"--{old} is now --{new.new} {new.value}",)


@pytest.mark.parametrize("old", names_of(Switch))
def test_a_switch_that_is_off_is_left_out_and_not_given(old: str) -> None:
    line = read(f"--{old}", "false")
    assert (line.argv, line.given, len(line.notes)) == ([], frozenset(), 1)


@pytest.mark.parametrize("old", [*names_of(Switch), "split_batches", "dispatch_batches", "no_log_on_each_node"])
def test_a_switch_takes_true_or_false(old: str) -> None:
    assert refusal(f"--{old}", "perhaps") == f"--{old} takes true or false, not 'perhaps'"


@pytest.mark.parametrize("old", names_of(Share))
@pytest.mark.parametrize(("said", "now"), [("0.06", "0.06"), ("0", "0"), ("1e-2", "1e-2"), ("1", "0.9999999999")])
def test_a_share_stays_a_share(old: str, said: str, now: str) -> None:
    line = read(f"--{old}", said)
    assert line.argv == ["--warmup_steps", now]
    assert line.notes == (f"--{old} is now --warmup_steps {now}",)


@pytest.mark.parametrize("said", ["6", "-0.1", "half", "nan", ""])
def test_a_share_is_from_0_to_1(said: str) -> None:
    assert refusal(f"--warmup_ratio={said}") == f"--warmup_ratio takes a share from 0 to 1, not {said!r}"


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


@pytest.mark.parametrize("old", names_of(Gone))
def test_what_is_gone_is_left_out_aloud_where_that_changes_nothing(old: str) -> None:
    gone = OLD_FLAGS[old]
    assert isinstance(gone, Gone)
    value = "auto" if gone.harmless is None else sorted(gone.harmless)[-1]
    line = read(f"--{old}", value, "--bf16")
    assert (line.argv, line.given) == (["--bf16"], {"bf16"})
    assert line.notes == (f"--{old} is left out: {gone.why}",)


@pytest.mark.parametrize(
    "words",
    [
        ["--save_safetensors", "false"],
        ["--no_save_safetensors"],
        ["--past_index", "2"],
        ["--sharded_ddp", "zero_dp_2"],
    ],
)
def test_what_is_gone_is_refused_where_that_would_change_the_run(words: list[str]) -> None:
    assert refusal(*words).startswith(f"{' '.join(words)} cannot be done: ")


def test_weights_are_never_pickled() -> None:
    assert "never as pickle" in refusal("--save_safetensors=no")
    assert read("--save_safetensors").argv == []


@pytest.mark.parametrize(("flag", "old"), [(flag, old) for flag, olds in OLD_VALUES.items() for old in olds])
def test_an_old_value_becomes_the_new_one(flag: str, old: str) -> None:
    said = [f"--{flag}", *([old] if old else [])]
    line = read(*said, "--bf16")
    assert line.argv == [f"--{flag}", OLD_VALUES[flag][old], "--bf16"]
    assert line.notes == (f"{' '.join(said)} is now --{flag} {OLD_VALUES[flag][old]}",)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([f"--{OWNER}", "acme", f"--{REPOSITORY}", "tiny"], ["--hub_model_id", "acme/tiny"]),
        ([f"--{OWNER}", "acme", "--output_dir", "out/run"], ["--output_dir", "out/run", "--hub_model_id", "acme/run"]),
    ],
)
def test_an_owner_goes_before_the_name(words: list[str], expected: list[str]) -> None:
    assert read(*words).argv == expected


def test_an_owner_alone_is_no_repository() -> None:
    sentence = refusal(f"--{OWNER}", "acme")
    assert sentence == f"--{OWNER} needs a repository's name: give --hub_model_id acme/NAME in its place"


@pytest.mark.parametrize(
    ("words", "both"),
    [
        (["--evaluation_strategy", "no", "--eval-strategy", "no"], "--evaluation_strategy and --eval-strategy"),
        (["--warmup_steps", "5", "--warmup_ratio", "0.1"], "--warmup_steps and --warmup_ratio"),
        (["--adafactor", "--optim", "adamw_hf"], "--adafactor and --optim"),
        (["--split_batches", "--dispatch_batches", "true"], "--split_batches and --dispatch_batches"),
    ],
)
def test_old_and_new_name_together_are_refused(words: list[str], both: str) -> None:
    assert refusal(*words).startswith(f"{both} are one flag now; give --")


def test_a_flag_given_twice_by_one_name_is_argparse_s_to_judge() -> None:
    assert read("--no_cuda", "--no-cuda").argv == ["--use_cpu", "--use_cpu"]
    assert read("--no_cuda", "--no-cuda").notes == ("--no_cuda is now --use_cpu", "--no-cuda is now --use_cpu")


def test_a_name_that_the_parser_knows_is_not_translated() -> None:
    line = read_command_line(["--logging_dir", "logs"], {"logging_dir"})
    assert (line.argv, line.notes) == (["--logging_dir", "logs"], ())


def test_overwrite_output_dir_is_ours() -> None:
    assert read("--overwrite_output_dir").argv == ["--overwrite_output_dir"]


def test_every_translation_ends_in_a_flag_and_a_value_of_the_installed_trainer() -> None:
    from dataclasses import fields

    from transformers import TrainingArguments
    from transformers.training_args import OptimizerNames

    installed = {field.name for field in fields(TrainingArguments)}
    assert (NEW - {"no_log_on_each_node"} | OLD_VALUES.keys()) <= installed
    assert not installed & OLD_FLAGS.keys()
    assert not FLAGS_OF_2023 - installed - OLD_FLAGS.keys() - {"overwrite_output_dir"}
    optimizers = {name.value for name in OptimizerNames}
    assert {*OLD_VALUES["optim"].values(), "adafactor"} <= optimizers
    assert not optimizers & OLD_VALUES["optim"].keys()


@pytest.mark.parametrize(("share", "steps"), [("0", 0), ("0.1", 100), ("1", 1000)])
def test_a_share_warms_up_as_long_as_it_did(tmp_path: Path, share: str, steps: int) -> None:
    from transformers import TrainingArguments

    value = float(read("--warmup_ratio", share).argv[1])
    assert TrainingArguments(str(tmp_path), warmup_steps=value, use_cpu=True).get_warmup_steps(1000) == steps


# The file.


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


def test_the_files_flags_come_first_and_count_as_given(config: Path) -> None:
    config.write_text("lora_r: 8\nevaluation_strategy: steps\n")
    line = read("stray", "--bf16", f"--config={config}", "other", "--mode", "lora")
    assert line.argv == ["stray", "other", "--lora_r", "8", "--eval_strategy", "steps", "--bf16", "--mode", "lora"]
    assert line.given == {"lora_r", "eval_strategy", "bf16", "mode"}
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
def test_a_flag_on_the_line_wins_over_the_whole_of_it_in_the_file(config: Path, text: str, argv: list[str]) -> None:
    assert from_file(config, text, *argv) == read(*argv).argv


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lora_r: 8\nlora_rnk: 8", "{}, line 2: unknown flag --lora_rnk; did you mean --lora_r?"),
        ("lora_rnk: null", "{}, line 1: unknown flag --lora_rnk; did you mean --lora_r?"),
        ("lora_r: 8\n\nbf16: [", "{} is not YAML: line 3: expected the node content, but found '<stream end>'"),
        ("lora_r: 8: 9", "{} is not YAML: line 1: mapping values are not allowed here"),
        ("lora_r: \x07", "{} is not YAML: unacceptable character #x0007: special characters are not allowed"),
        ("- lora_r", "{} must hold lines such as 'learning_rate: 1e-4', one a flag"),
        ("lora_r 8", "{} must hold lines such as 'learning_rate: 1e-4', one a flag"),
        ("lora_r: 8\nconfig: other.yaml", "{}, line 2: a file of flags cannot name another"),
        ("lora_r: 8\nlora-r: 9", "{}, line 2: lora-r is there twice; keep one"),
        ("? [lora_r]\n: 8", "{}, line 1: the name of a flag must be a plain word"),
        ("target_modules: []", "{}, line 1: a list needs one or more plain values"),
        ("target_modules: [a, null]", "{}, line 1: a list needs one or more plain values"),
        ("target_modules: [[a]]", "{}, line 1: a list needs one or more plain values"),
        ("target_modules: [a, --b]", "{}, line 1: a value in a list cannot begin with a dash"),
        (
            "warmup_steps: 5\nwarmup_ratio: 0.1",
            "{}: --warmup_steps and --warmup_ratio are one flag now; give --warmup_steps alone",
        ),
        ("save_safetensors: false", "{}: --save_safetensors false cannot be done: " + "weights are saved as"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence_that_names_it(config: Path, text: str, sentence: str) -> None:
    config.write_text(text, encoding="utf-8")
    assert refusal("--config", str(config)).startswith(sentence.format(config))


def test_a_file_must_be_there_and_be_text(config: Path) -> None:
    assert refusal("--config", str(config)) == f"--config {config}: No such file or directory"
    assert refusal("--config", str(config.parent)).startswith(f"--config {config.parent}: ")
    config.write_bytes(b"prompt: caf\xe9")
    assert refusal("--config", str(config)).startswith(f"{config} is not YAML: 'utf-8' codec can't decode byte 0xe9")


@pytest.mark.parametrize("words", [["--config"], ["--config="], ["--config", "--bf16"], ["--config", "-h"]])
def test_config_needs_a_file(words: list[str]) -> None:
    assert refusal(*words) == "--config needs a file: --config run.yaml"


def test_there_is_one_file() -> None:
    assert refusal("--config", "a.yaml", "--config", "b.yaml") == "--config is given twice; put all flags in one file"


plain = st.text(st.characters(blacklist_categories=["Cs", "Cc"])) | st.integers() | st.booleans()
numbers = st.floats(allow_nan=False)
items = st.text("abc_.é 1", min_size=1) | st.integers(min_value=0) | st.booleans()
anything = plain | numbers | st.lists(items, min_size=2, max_size=4)
# OLD_VALUES would be translated, and a no_ flag turned round: neither comes out as it went in.
stable = sorted(KNOWN - OLD_VALUES.keys() - {"no_log_on_each_node", "log_on_each_node", "config"})


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


@settings(deadline=None)  # a busy machine is no failure
@given(told=st.dictionaries(st.sampled_from(stable), anything, max_size=6))
def test_whatever_the_file_holds_comes_out_as_given(
    tmp_path_factory: pytest.TempPathFactory, told: dict[str, object]
) -> None:
    config = tmp_path_factory.getbasetemp() / "any.yaml"
    config.write_text(yaml.safe_dump(told, allow_unicode=True), encoding="utf-8")
    line = read("--config", str(config))
    parsed = as_parsed(line.argv)
    assert line.given == told.keys() == parsed.keys()
    for name, value in told.items():
        if isinstance(value, float):
            assert [float(word) for word in parsed[name]] == [value]
        else:
            assert parsed[name] == as_words(value)
    assert read(*line.argv).argv == line.argv


# Unknown flags, and the door itself.


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
def test_an_unknown_flag_is_met_with_the_nearest_ones(flag: str, sentence: str) -> None:
    assert refusal(flag) == sentence


def test_at_most_three_flags_are_offered() -> None:
    sentence = str(unknown_flag("eval", {"eval_steps", "eval_delay", "eval_strategy", "eval_on_start"}))
    assert sentence.count("--eval_") == 3
    assert " or " in sentence


def test_reading_a_command_line_loads_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'numpy'}"
    code = f"import sys, slm_train.flags; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
