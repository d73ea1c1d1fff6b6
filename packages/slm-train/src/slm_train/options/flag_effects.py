"""What each flag means for a run that is resumed: every flag is in exactly one of the sets of ``ALL_SETS``."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# In the hashes of the training and the validation rows, which are compared instead: texts, tokenizer, rows.
DATA = _names("""
    dataset train_file text_column document_separator max_train_samples validation_fraction split_seed streaming
    data_format columns tokenizer_path vocab_size block_size loss_on chat_template long_rows parse_special_tokens
""")
VALIDATION_DATA = _names("validation_file max_eval_samples")

# Cannot change within a run: its weights, its optimizer state or its place in the data would not fit.
_MODEL = _names("""
    mode model_path model_revision from_scratch load_in_4bit modules_to_save resize_embeddings target_modules
    lora_r lora_alpha use_rslora use_dora oft_block_size
    butterfly_stages butterfly_block_size butterfly_preset butterfly_side butterfly_scale
""")
_KIND_OF_OPTIMIZER = _names("optim optim_args optim_target_modules muon deepspeed parallelism_config")
_ROWS_OF_STEPS = _names("""
    seed data_seed packing packing_fill per_device_train_batch_size gradient_accumulation_steps auto_find_batch_size
    train_sampling_strategy length_column_name dataloader_drop_last dataloader_in_order accelerator_config
    target_tokens_per_step max_tokens_per_micro_batch
""")
FIXED = _MODEL | _KIND_OF_OPTIMIZER | _ROWS_OF_STEPS

# Change the trajectory, but can change within a run, with --accept_changes.
LENGTH = _names("num_train_epochs max_steps max_minutes")
SCHEDULE = LENGTH | _names("learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps schedule_in")
OPTIMIZER = _names("weight_decay adam_beta1 adam_beta2 adam_epsilon")
# Only with a schedule that follows evaluations.
EVALUATION = _names("eval_strategy eval_steps eval_delay eval_interval metric_for_best_model greater_is_better")
_ARITHMETIC = _names("""
    max_grad_norm lora_dropout butterfly_dropout label_smoothing_factor neftune_noise_alpha bf16 fp16 tf32
    average_tokens_across_devices ignore_data_skip
""")
CHANGEABLE = SCHEDULE | OPTIMIZER | EVALUATION | _ARITHMETIC

# Change no step, apart from rounding: evaluations, reports, files, speed and memory.
_OF_THE_RUN = _names("""
    output_dir config dry_run overwrite_output_dir accept_changes resume_from_checkpoint threads fused_loss
    find_learning_rate prompt sample_every show_rows patience keep_best max_eval_tokens token_cache
    preprocessing_num_workers log_interval checkpoint_interval pad_to_multiple_of
""")
_OF_EVALUATIONS = _names("""
    per_device_eval_batch_size prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object
    eval_accumulation_steps include_for_metrics batch_eval_metrics bf16_full_eval fp16_full_eval
    load_best_model_at_end do_train do_eval do_predict
""")
_OF_FILES_AND_REPORTS = _names("""
    save_only_model save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint
    logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_level log_level_replica
    log_on_each_node include_num_input_tokens_seen disable_tqdm report_to run_name project
    trackio_space_id trackio_bucket_id trackio_static_space_id
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
""")
_OF_SPEED_AND_MEMORY = _names("""
    gradient_checkpointing gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode
    fsdp fsdp_config use_liger_kernel liger_kernel_config use_cache torch_empty_cache_steps full_determinism use_cpu
    restore_callback_states_from_checkpoint remove_unused_columns label_names local_rank debug skip_memory_metrics
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
""")
WITHOUT_EFFECT = _OF_THE_RUN | _OF_EVALUATIONS | _OF_FILES_AND_REPORTS | _OF_SPEED_AND_MEMORY

OPTIMIZER_STATE = "optimizer_state"  # no flag: accepts a checkpoint of --save_only_model
ACCEPTABLE = CHANGEABLE | {OPTIMIZER_STATE}
ALL_SETS = (DATA, VALIDATION_DATA, FIXED, CHANGEABLE, WITHOUT_EFFECT)
