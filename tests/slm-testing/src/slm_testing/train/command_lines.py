"""A fixed set of known flags, and reading command lines against it."""

from __future__ import annotations

import pytest

from slm_train.command_line.flag_reader import CommandLine, read_command_line
from slm_train.command_line.flag_types import Removed
from slm_train.command_line.legacy_flags import LEGACY_FLAGS
from slm_train.errors import UsageError

# Every field of TrainingArguments in transformers 4.24, 4.30 and 4.36: late 2022 to late 2023.
TRANSFORMERS_4_FIELDS = """
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
"""
TRANSFORMERS_4_FLAGS = set(TRANSFORMERS_4_FIELDS.split())
OWN_FLAGS = {"mode", "lora_r", "lora_alpha", "target_modules", "overwrite_output_dir", "prompt", "config"}
CURRENT_NAMES = {old.new for old in LEGACY_FLAGS.values() if not isinstance(old, Removed)} | {"no_log_on_each_node"}
KNOWN = ((TRANSFORMERS_4_FLAGS | OWN_FLAGS) - LEGACY_FLAGS.keys()) | CURRENT_NAMES


def read(*argv: str) -> CommandLine:
    """Read a command line."""
    return read_command_line(argv, KNOWN)


def refusal(*argv: str) -> str:
    """Return the message with which a command line is refused."""
    with pytest.raises(UsageError) as refused:
        read(*argv)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def names_of(kind: type) -> list[str]:
    """Return the legacy flags with translations of one kind."""
    return [name for name, old in LEGACY_FLAGS.items() if isinstance(old, kind)]
