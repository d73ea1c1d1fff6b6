"""Texts of the help pages: openings, and wording of the Trainer's most used flags."""

from __future__ import annotations

OPENING = """\
slm-train: fine-tune a small language model and see what it cost.

  slm-train                                              the built-in base on the built-in corpus
  slm-train --dataset tinystories --mode lora            distilgpt2 on a dataset of the hub
  slm-train --train_file "texts/*.txt" --model_path gpt2 --mode qlora
  slm-train --config run.yaml --learning_rate 1e-4       flags from a file; the command line takes precedence
  slm-train ... --resume_from_checkpoint                 continue a run that was stopped
  slm-train dynamic ...                                  the token-budget loop; see slm-train dynamic --help
  slm-train --print_completion bash                      a script that completes flags: bash, zsh or tcsh
  slm-train --config_schema                              the JSON schema of files for --config, for editors
  slm-train --version                                    print the version
"""

OPENING_DYNAMIC = """\
slm-train dynamic: optimizer steps of a fixed number of tokens, frequent checkpoints, exact resume.

  slm-train dynamic                                      the built-in base on the built-in corpus
  slm-train dynamic --dataset tinystories --target_tokens_per_step 4096
  slm-train dynamic ... --resume_from_checkpoint         continue after the last checkpoint
  torchrun --nproc_per_node 2 -m slm_train.cli dynamic ...

Rows of similar length are batched together to minimise padding (--packing none). A step ends with the row
that reaches the budget. Its loss is divided by the tokens of the step, so the gradient is that of one
large batch.
"""

# Flags of TrainingArguments that most runs set. Their own help texts do not mention our defaults.
TRAINING_TEXTS = {
    "output_dir": "The run folder. Default: outputs/<dataset>-<mode>.",
    "learning_rate": "Peak learning rate. Default: by mode and width of the base model, and printed; "
    "--find_learning_rate measures one.",
    "num_train_epochs": "Passes over the training rows. Default: as many as make about 100 optimizer steps, at most "
    "10.",
    "max_steps": "Optimizer steps; replaces epochs.",
    "per_device_train_batch_size": "Rows in a micro-batch. Default: 8.",
    "gradient_accumulation_steps": "Micro-batches in an optimizer step. Default: 1.",
    "per_device_eval_batch_size": "Rows in an evaluation batch. Default: as in training, at most 8.",
    "gradient_checkpointing": "Recompute activations in the backward pass: less memory, slower.",
    "warmup_steps": "Steps during which the learning rate rises; below 1, a fraction of the run.",
    "lr_scheduler_type": "linear (default), cosine, constant, warmup_stable_decay ...",
    "weight_decay": "Decoupled weight decay, not applied to biases and norms. Default: 0.",
    "max_grad_norm": "Clip gradients to this norm; 0 for no clipping. Default: 1.",
    "optim": "adamw_torch_fused (default), adafactor, sgd, paged_adamw_8bit ...",
    "bf16": "bfloat16 autocast. Default: on if the device has bfloat16 instructions.",
    "fp16": "float16 autocast, for GPUs without bfloat16; not used on a CPU.",
    "use_cpu": "Train on the CPU even if there is a GPU.",
    "eval_strategy": "When to evaluate during training: no (default), steps or epoch.",
    "eval_steps": "Steps between evaluations.",
    "save_steps": "Steps between checkpoints. Default: 500.",
    "save_total_limit": "Number of checkpoints to keep. Default: 2.",
    "logging_steps": "Steps between log lines. Default: 10.",
    "report_to": "Where to log in addition to metrics.jsonl: tensorboard, trackio, wandb ...",
    "resume_from_checkpoint": "Continue from the newest complete checkpoint, or from the given one.",
    "seed": "Determines the order of rows and every random number. Default: 42.",
}

# Flags with another meaning or default in the token-budget loop.
DYNAMIC_ROW_TEXTS = {
    "packing": "How rows are filled. none (default): one document per row, rows of similar length batched together; "
    "best_fit: several documents in a row, without attention between them; concat: one stream, cut into blocks."
}
DYNAMIC_TRAINING_TEXTS = {
    "output_dir": "The run folder. Default: outputs/<dataset>-<mode>-dynamic.",
    "per_device_train_batch_size": "Upper bound on the rows of a micro-batch. Default: as many as its tokens allow.",
    "resume_from_checkpoint": "Continue after the last checkpoint; starts from the beginning if there is none.",
}
