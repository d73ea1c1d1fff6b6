"""Values of flags are checked before anything is downloaded or written, with one sentence that names flag and value."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.command_line.checks.value_ranges import RANGES, Range
from slm_train.command_line.known_flags import known_flag_names
from slm_train.command_line.parsing import parse_arguments
from slm_train.command_line.training_flags import training_flags

REFUSED = [
    ("--adam_beta1=1.5", "--adam_beta1 1.5 must be at least 0 and below 1"),
    ("--adam_beta2=-0.1", "--adam_beta2 -0.1 must be at least 0 and below 1"),
    ("--adam_epsilon=0", "--adam_epsilon 0 must be above 0"),
    ("--learning_rate=-1", "--learning_rate -1 must be at least 0"),
    ("--learning_rate=nan", "--learning_rate nan must be a finite number at least 0"),
    ("--weight_decay=inf", "--weight_decay inf must be a finite number at least 0"),
    ("--label_smoothing_factor=1", "--label_smoothing_factor 1 must be at least 0 and below 1"),
    ("--per_device_train_batch_size=0", "--per_device_train_batch_size 0 must be at least 1"),
    ("--gradient_accumulation_steps=0", "--gradient_accumulation_steps 0 must be at least 1"),
    ("--seed=-1", "--seed -1 must be at least 0"),
    ("--seed=99999999999", "--seed 99999999999 must be at most 4,294,967,295"),
    ("--dataloader_num_workers=-1", "--dataloader_num_workers -1 must be at least 0"),
    ("--max_steps=0", "--max_steps 0 must be at least 1, or -1 for no limit"),
    ("--max_steps=-5", "--max_steps -5 must be at least 1, or -1 for no limit"),
    ("--save_steps=0", "--save_steps 0 must be above 0"),
    ("--lora_alpha=nan", "--lora_alpha nan must be a finite number above 0"),
    ("--butterfly_dropout=nan", "--butterfly_dropout nan must be a finite number"),
    ("--max_train_samples=" + "9" * 30, "--max_train_samples 1e29 or more must be at most 2,147,483,647"),
    ("--max_steps=many", "--max_steps many must be a whole number"),
    ("--max_steps=", "--max_steps '' is blank: give a value, or leave out --max_steps"),
    ("--lora_dropout=a lot", "--lora_dropout 'a lot' must be a number"),
    ("--bf16=maybe", "--bf16 maybe must be true or false"),
    ("--output_dir= ", "--output_dir ' ' is blank"),
    ("--run_name=a\0b", r"--run_name 'a\x00b' must be text in UTF-8"),
    ("--run_name=\udcff", r"--run_name '\udcff' must be text in UTF-8"),
    ("--lr_scheduler_type=cosin", "--lr_scheduler_type cosin: did you mean cosine? choose from linear, cosine,"),
    ("--optim=adam", "did you mean adamw_torch? choose from"),
    ("--torch_compile_mode=fast", "--torch_compile_mode fast: choose from default, reduce-overhead"),
    ("--dataloader_multiprocessing_context=thread", "--dataloader_multiprocessing_context thread: choose from"),
    ("--liger_kernel_config={}", "--liger_kernel_config {} is not supported: leave it out"),
    ("--lr_scheduler_kwargs={bad", "--lr_scheduler_kwargs {bad must be a JSON object, such as"),
    ("--lr_scheduler_kwargs=[1]", "--lr_scheduler_kwargs [1] must be a JSON object, such as"),
    ('--accelerator_config={"a": 1}', "--accelerator_config has the key 'a'; choose from dispatch_batches"),
    ('--accelerator_config={"split_batches": 5}', "split_batches 5 must be true or false"),
    ('--accelerator_config={"gradient_accumulation_kwargs": {"a": 5}}', "with some of num_steps,"),
    ("--accelerator_config=/nonexistent", "--accelerator_config /nonexistent: No such file or directory"),
    ("--token_cache=~no-such-user/x", "the home folder of a user that does not exist"),
    ("--vocab_size=2147483647", "--vocab_size 2147483647 must be at most 2,000,000"),
    ("--model_path=" + "x" * 300, "is too long for a path"),
]


@pytest.mark.parametrize(("word", "sentence"), REFUSED, ids=[word[:40] for word, _ in REFUSED])
def test_a_value_that_no_run_can_have_is_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, word: str, sentence: str
) -> None:
    assert sentence in refused(tiny.flags(tmp_path / "run", word))
    assert not (tmp_path / "run").exists()


def test_a_flag_without_its_value_is_refused(refused: Refused) -> None:
    assert refused(["--seed"]) == "slm-train: --seed needs a value"
    assert refused(["--train_file"]) == "slm-train: --train_file needs a value"


@pytest.mark.parametrize("name", ["ddp_static_graph", "hub_private_repo", "bf16"])
def test_every_switch_is_on_without_a_value(name: str) -> None:
    assert getattr(parse_arguments([f"--{name}", "--use_cpu"]).training, name) is True


def test_values_of_a_file_of_flags_are_checked_as_well(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run.yaml").write_text("adam_beta1: 1.5\n")
    assert "--adam_beta1 1.5 must be" in refused(["--config", str(tmp_path / "run.yaml")])


def test_every_range_is_that_of_a_flag_and_contains_its_default() -> None:
    assert RANGES.keys() <= known_flag_names(dynamic=True)
    for flag in training_flags():
        if flag.name in RANGES and isinstance(flag.default, int | float):
            assert flag.default in RANGES[flag.name], flag.name


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (Range(0, 1), (0, 1, 0.5), (-1e-9, 1.001)),
        (Range(0, 1, below=True), (0, 0.999), (1, -1)),
        (Range(0, above=True), (1e-300, 1e300), (0, -1)),
        (Range(1, 5, unset=-1), (1, 5, -1), (0, 6, -2, 10**400)),
    ],
)
def test_a_range_contains_its_closed_ends_only(
    limits: Range, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    assert all(value in limits for value in inside)
    assert not any(value in limits for value in (*outside, float("nan"), float("inf"), float("-inf")))


def test_the_smallest_and_largest_values_in_range_are_accepted() -> None:
    limits = {"seed": "4294967295", "adam_beta1": "0", "learning_rate": "0", "max_steps": "-1", "warmup_steps": "0"}
    parsed = parse_arguments([f"--{name}={value}" for name, value in limits.items()]).training
    assert (parsed.seed, parsed.adam_beta1, parsed.learning_rate, parsed.max_steps) == (4294967295, 0, 0, -1)
