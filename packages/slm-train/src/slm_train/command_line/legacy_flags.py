"""Flags of the transformers 4 Trainer that transformers 5 no longer has, and what replaces each.

LEGACY_FLAGS contains every field of TrainingArguments from 4.24 to 4.57 that 5.19 lacks, except
``overwrite_output_dir``, which is a flag of this project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slm_train.command_line.flag_types import (
    FALSE_WORDS,
    TRUE_WORDS,
    Flag,
    JsonEntry,
    LegacyFlag,
    Removed,
    Renamed,
    Share,
    Switch,
    Translation,
)
from slm_train.errors import UsageError

_ONE_BACKEND = "mixed precision now has a single backend, torch.autocast"
_SAFETENSORS = "weights are always saved as safetensors, never as pickle"
_TENSORBOARD = "TensorBoard writes to $TENSORBOARD_LOGGING_DIR, or to tensorboard/ in --output_dir if that is not set"
OWNER = "push_to_hub_organization"
REPOSITORY = "push_to_hub_model_id"

LEGACY_FLAGS: dict[str, LegacyFlag] = {
    "evaluation_strategy": Renamed("eval_strategy"),
    "no_cuda": Renamed("use_cpu"),
    "per_gpu_train_batch_size": Renamed("per_device_train_batch_size"),
    "per_gpu_eval_batch_size": Renamed("per_device_eval_batch_size"),
    "push_to_hub_token": Renamed("hub_token"),
    REPOSITORY: Renamed("hub_model_id"),
    OWNER: Renamed("hub_model_id"),
    "torchdynamo": Renamed("torch_compile_backend"),
    "xpu_backend": Renamed("ddp_backend"),
    "warmup_ratio": Share("warmup_steps"),
    "group_by_length": Switch("train_sampling_strategy", "group_by_length"),
    "adafactor": Switch("optim", "adafactor"),
    "include_inputs_for_metrics": Switch("include_for_metrics", "inputs"),
    "tpu_metrics_debug": Switch("debug", "tpu_metrics_debug"),
    "dispatch_batches": JsonEntry("accelerator_config", "dispatch_batches", is_switch=True),
    "split_batches": JsonEntry("accelerator_config", "split_batches", is_switch=True),
    "fsdp_transformer_layer_cls_to_wrap": JsonEntry("fsdp_config", "transformer_layer_cls_to_wrap"),
    "fsdp_min_num_params": JsonEntry(
        "fsdp_config", "min_num_params", required_entries={"auto_wrap_policy": "SIZE_BASED_WRAP"}
    ),
    "fp16_backend": Removed(_ONE_BACKEND),
    "half_precision_backend": Removed(_ONE_BACKEND),
    "fp16_opt_level": Removed(f"it was a setting of Apex, and {_ONE_BACKEND}"),
    "save_safetensors": Removed(_SAFETENSORS, frozenset(TRUE_WORDS)),
    "no_save_safetensors": Removed(_SAFETENSORS, frozenset(FALSE_WORDS)),
    "logging_dir": Removed(_TENSORBOARD),
    "use_mps_device": Removed("an Apple GPU is used whenever there is one"),
    "use_ipex": Removed("the Intel extension no longer has a setting"),
    "jit_mode_eval": Removed("evaluation is no longer traced; use --torch_compile to speed it up"),
    "include_tokens_per_second": Removed("tokens per second are always measured"),
    "use_legacy_prediction_loop": Removed("there is only one evaluation loop"),
    "mp_parameters": Removed("it was read by a launcher only"),
    "tpu_num_cores": Removed("it was read by a launcher only"),
    "ray_scope": Removed("it was a setting of hyperparameter search, which this command does not run"),
    "past_index": Removed("models no longer keep a cache from batch to batch", frozenset({"-1"})),
    "sharded_ddp": Removed(
        "fairscale's sharding was replaced by --fsdp and --deepspeed", frozenset({""} | FALSE_WORDS)
    ),
}

# Values of current flags that were renamed; "" stands for a flag without a value.
LEGACY_VALUES = {
    "optim": {"adamw_hf": "adamw_torch", "adamw_apex_fused": "adamw_torch_fused"},
    "hub_private_repo": {"": "true"},
}


def translate_value(flag: Flag) -> Translation:
    """Return a current flag with the current name of its value."""
    value = LEGACY_VALUES.get(flag.name, {}).get(flag.value)
    if value is None:
        return flag, ""
    note = f"--{' '.join([flag.name, *flag.values[:1]])} is now --{flag.name} {value}"
    return replace(flag, values=(value, *flag.values[1:])), note


def join_hub_owner(flags: Sequence[Flag]) -> list[Flag]:
    """Merge the legacy flag for the owner of a hub repository with its name.

    transformers 4 had a flag for the owner and one for the name, which defaulted to the output folder's.
    Raises UsageError if neither names the repository.
    """
    last = {flag.name: flag for flag in flags if flag.value}
    if OWNER not in last:
        return list(flags)
    owner = last[OWNER]
    name = last[REPOSITORY].value if REPOSITORY in last else ""
    name = name or (Path(last["output_dir"].value).name if "output_dir" in last else "")
    if not name:
        raise UsageError(
            f"--{owner.original_name} needs the name of a repository: give --hub_model_id {owner.value}/NAME instead"
        )
    others = [flag for flag in flags if flag.name not in (OWNER, REPOSITORY)]
    return [*others, replace(owner, values=(f"{owner.value}/{name}", *owner.values[1:]))]
