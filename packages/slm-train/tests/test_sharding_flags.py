"""What ``--fsdp`` does not work with is refused in one sentence, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slm_testing.train.tiny_runs import Refused, Tiny
from slm_train.arguments import SlmTrainingArguments
from slm_train.command_line.checks.sharding_flags import check_sharding
from slm_train.errors import TrainError
from slm_train.options.model import ModelOptions
from slm_train.options.run import RunOptions
from slm_train.sharding.model_sharding import ShardingSettings, shard_model


def training(**settings: Any) -> SlmTrainingArguments:
    return SlmTrainingArguments(**{"output_dir": "x", "use_cpu": True, "fsdp": True} | settings)


@pytest.mark.parametrize(
    ("settings", "mode", "run", "message"),
    [
        ({}, "qlora", {}, "--mode qlora, whose base has 4-bit weights; give --mode lora, or leave out --fsdp"),
        ({"torch_compile": True}, "baseline", {}, "--fsdp does not work with --torch_compile; leave it out"),
        ({}, "baseline", {"muon": True}, "--fsdp does not work with --muon; leave it out"),
        ({"optim": "adafactor"}, "baseline", {}, "--optim adafactor; choose from adamw_torch, adamw_torch_fused, sgd"),
        ({"auto_find_batch_size": True}, "baseline", {}, "give --per_device_train_batch_size, or leave out --fsdp"),
        ({"fsdp_config": {"version": 1}}, "lora", {}, "version 1 is not supported; FSDP1 is not supported"),
        ({"fsdp_config": {"cpu_offload": True}}, "lora", {}, "cpu_offload True is not supported; leave it out"),
        ({"fsdp": "full_shard offload"}, "lora", {}, "cpu_offload True is not supported"),
        ({"fsdp_config": {"activation_checkpointing": True}}, "lora", {}, "give --gradient_checkpointing"),
        ({"fsdp_config": {"nonsense": 1}}, "lora", {}, "nonsense 1 is not supported"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_does_not_work_with_sharding_is_refused(
    settings: dict[str, Any], mode: str, run: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainError) as refusal:
        check_sharding(training(**settings), ModelOptions(mode=mode), RunOptions(**run))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_settings_of_sharding_are_read() -> None:
    config = {"reshard_after_forward": "false", "transformer_layer_cls_to_wrap": ["GPT2Block"]}
    arguments = training(fsdp_config=config)
    check_sharding(arguments, ModelOptions(mode="lora"), RunOptions())
    assert ShardingSettings.of(arguments) == ShardingSettings(("GPT2Block",), frees_after_forward=False)
    assert ShardingSettings.of(training()) == ShardingSettings((), frees_after_forward=True)


def test_a_model_whose_layers_are_unknown_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(TrainError, match="the class of its layers is unknown; name it with --fsdp_config"):
        shard_model(model, torch.device("cpu"), ShardingSettings())
    with pytest.raises(TrainError, match="it has no layers of the class Block; name it"):
        shard_model(model, torch.device("cpu"), ShardingSettings(("Block",)))


def test_fsdp_of_accelerates_own_configuration_is_refused(
    tiny: Tiny, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "give --fsdp" in refused(tiny.flags(tmp_path / "run"))
