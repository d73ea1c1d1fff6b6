"""Mode ``oft``, and numbers of trainable parameters without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train import parse_arguments, trainable_parameter_counter
from slm_train.cli import main


def test_a_run_with_another_block_size_is_not_resumed(tiny: Tiny, tmp_path: Path, refused: Refused) -> None:
    flags = ["--mode", "oft", "--max_steps", "1", "--save_steps", "1"]
    assert main(tiny.flags(tmp_path, *flags)) == 0
    assert read_record(tmp_path)["parameters"]["trainable"] == 2 * (3 * 32 + 128) * 31 // 2
    sentence = refused(tiny.flags(tmp_path, *flags, "--oft_block_size", "8", "--resume_from_checkpoint"))
    assert "was trained with --oft_block_size none, now 8" in sentence


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mode", "lora", "--oft_block_size", "8"), "--oft_block_size 8 is for --mode oft, not for lora"),
        (("--mode", "oft", "--oft_block_size", "1"), "--oft_block_size 1 must be at least 2"),
        (("--mode", "oft", "--oft_block_size", "24"), "does not divide the input widths 32, 128; choose from 2, 4"),
    ],
    ids=str,
)
def test_a_block_size_that_does_not_fit_is_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, flags: tuple[str, ...], message: str
) -> None:
    assert message in refused(tiny.flags(tmp_path / "run", *flags))


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "baseline"},
        {"mode": "lora", "lora_r": 3},
        {"mode": "lora", "lora_r": 1, "use_dora": True},
        {"mode": "butterfly", "butterfly_preset": "quality", "butterfly_stages": 2},
        {"mode": "butterfly_block", "butterfly_block_size": 16},
        {"mode": "oft"},
        {"mode": "lora", "modules_to_save": ["wpe"]},
    ],
    ids=str,
)
def test_parameters_are_counted_without_training_as_a_run_records_them(
    tiny: Tiny, tmp_path: Path, changes: dict[str, Any]
) -> None:
    words = [word for name, value in changes.items() for word in (f"--{name}", *map(str, _as_list(value)))]
    flags = tiny.flags(tmp_path, *words, "--max_steps", "1")
    assert main(flags) == 0
    arguments = parse_arguments(tiny.flags(tmp_path / "other"))
    counted = trainable_parameter_counter(arguments)(replace(arguments.model, **changes))
    assert counted == read_record(tmp_path)["parameters"]["trainable"] > 0


def test_qlora_is_counted_without_a_4_bit_base(tiny: Tiny, tmp_path: Path) -> None:
    model = parse_arguments(tiny.flags(tmp_path)).model
    count = trainable_parameter_counter(parse_arguments(tiny.flags(tmp_path)))
    assert count(replace(model, mode="qlora", lora_r=2)) == count(replace(model, mode="lora", lora_r=2))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
