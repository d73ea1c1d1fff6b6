"""Schedules, optimizers, packages and folders are tried before a run starts; flags without effect are named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.cli import main
from slm_train.command_line.parsing import parse_arguments
from slm_train.errors import TrainError

EVALUATED = ("--eval_strategy", "steps", "--eval_steps", "2", "--save_steps", "2")
POLYNOMIAL = "--lr_scheduler_type polynomial"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--lr_scheduler_type", "warmup_stable_decay"), """--lr_scheduler_kwargs '{"num_decay_steps": 20}'"""),
        (("--lr_scheduler_type", "warmup_stable_decay", "--lr_scheduler_kwargs", '{"num_decay_steps": 5}'), "run of 4"),
        (("--lr_scheduler_type", "cosine_with_min_lr"), """--lr_scheduler_kwargs '{"min_lr_rate": 0.1}'"""),
        (("--lr_scheduler_type", "polynomial", "--learning_rate", "1e-8"), "(1e-07) must be smaller than initial lr"),
        (("--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", '{"power": -1}'), POLYNOMIAL),
        (("--lr_scheduler_type", "inverse_sqrt", "--lr_scheduler_kwargs", '{"timescale": 0}'), "division by zero"),
        (
            ("--lr_scheduler_type", "reduce_lr_on_plateau", *EVALUATED, "--lr_scheduler_kwargs", '{"patience": "x"}'),
            "'>' not supported between instances of 'int' and 'str'",
        ),
        (("--lr_scheduler_kwargs", '{"cycles": 1}'), "unexpected keyword argument 'cycles'"),
        (("--optim", "galore_adamw"), "--optim galore_adamw needs the package galore-torch: pip install galore-torch"),
        (("--optim", "sgd", "--optim_args", "nonsense"), "--optim_args nonsense must be pairs of name and value"),
        (("--optim", "sgd", "--optim_args", "momentum=x"), "could not convert string to float: 'x'"),
        (("--use_liger_kernel",), "--use_liger_kernel needs the package liger-kernel: pip install liger-kernel"),
        (("--deepspeed", "{}"), "--deepspeed needs the package deepspeed"),
        (("--deepspeed", "none.json"), "--deepspeed none.json: No such file or directory"),
        (("--fsdp", "full_shard"), "start them with torchrun"),
        (("--torch_compile_backend", "nonsense"), "--torch_compile_backend nonsense: choose from"),
        (
            ("--load_best_model_at_end", *EVALUATED, "--metric_for_best_model", "accuracy"),
            "choose from loss, perplexity",
        ),
        (("--load_best_model_at_end", *EVALUATED, "--greater_is_better"), "keeps the worst model by loss"),
        (("--load_best_model_at_end",), "--save_strategy is steps and --eval_strategy is no"),
        (("--save_strategy", "best"), "--save_strategy best needs evaluations"),
        (("--gradient_checkpointing", "--gradient_checkpointing_kwargs", '{"nope": 1}'), "argument 'nope'"),
        (("--gradient_checkpointing", "--gradient_checkpointing_kwargs", '{"every_n_layers": 0}'), "every_n_layers 0"),
        (("--dataloader_persistent_workers",), "give --dataloader_num_workers 1 or more"),
        (("--dataloader_drop_last", "--per_device_train_batch_size", "999"), "--dataloader_drop_last leaves nothing"),
        (("--debug", "underflow_overflow"), "--debug underflow_overflow is not supported"),
    ],
)
def test_settings_that_would_fail_later_are_refused_in_one_sentence(
    tiny: Tiny, tmp_path: Path, refused: Refused, flags: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(tiny.flags(tmp_path / "run", *flags))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ("--lr_scheduler_type", "warmup_stable_decay", "--lr_scheduler_kwargs", '{"num_decay_steps": 1}'),
        ("--optim", "sgd", "--optim_args", "momentum=0.9,nesterov=true"),
        ("--save_strategy", "best", "--eval_strategy", "steps", "--eval_steps", "1"),
        ("--gradient_checkpointing", "--gradient_checkpointing_kwargs", '{"preserve_rng_state": false}'),
    ],
)
def test_settings_that_are_accepted_train(tiny: Tiny, tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert main(tiny.flags(tmp_path / "run", "--max_steps", "2", *flags)) == 0


def test_the_best_model_by_perplexity_is_the_one_with_the_lowest(tmp_path: Path) -> None:
    flags = ("--load_best_model_at_end", *EVALUATED, "--metric_for_best_model", "perplexity")
    assert parse_arguments(flags).training.greater_is_better is False


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(TrainError, match="needs a C\\+\\+ compiler"):
        parse_arguments(["--torch_compile"])


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("file/run", "is below"),
        ("file/a/b/run", "is below"),
        ("x" * 300, "too long for a path"),
        ("/".join(["x"] * 3000), "too long for a path"),
    ],
    ids=["below a file", "far below a file", "a long name", "a long path"],
)
def test_an_output_dir_that_cannot_exist_is_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, folder: str, expected: str
) -> None:
    (tmp_path / "file").write_text("")
    assert expected in refused(tiny.flags(tmp_path / folder))
    assert os.listdir(tmp_path) == ["file"]


def test_a_token_cache_below_a_file_is_refused(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    flags = tiny.flags(tmp_path / "run", "--token_cache", str(tmp_path / "file" / "cache"))
    assert f"--token_cache {tmp_path}/file/cache is below {tmp_path}/file, which is a file" in refused(flags)


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (("--eval_steps", "5"), "--eval_steps has no effect without --eval_strategy steps"),
        (("--warmup_steps", "3", "--lr_scheduler_type", "constant"), "--warmup_steps has no effect without warmup"),
        (("--optim", "sgd", "--adam_beta1", "0.5"), "--adam_beta1 has no effect without an Adam optimizer"),
        (("--optim_args", "a=b"), "--optim_args a=b has no effect with --optim adamw_torch_fused"),
        (("--hub_model_id", "me/model"), "--hub_model_id has no effect without --push_to_hub"),
        (("--ddp_backend", "nccl"), "--ddp_backend has no effect without several processes"),
        (("--prediction_loss_only",), "--prediction_loss_only has no effect: evaluation here"),
        (("dynamic", "--data_seed", "3"), "--data_seed has no effect: the order of rows is part of the plan"),
    ],
)
def test_a_flag_without_effect_is_reported_in_one_line(flags: tuple[str, ...], note: str) -> None:
    assert [line for line in parse_arguments(flags).notes if line.startswith(note)]


@pytest.mark.parametrize("flags", [("--eval_steps", "5", "--keep_best"), ("--learning_rate", "1e-3"), ("--bf16", "no")])
def test_a_flag_with_an_effect_is_not_reported(flags: tuple[str, ...]) -> None:
    assert not [line for line in parse_arguments(flags).notes if "no effect" in line]
