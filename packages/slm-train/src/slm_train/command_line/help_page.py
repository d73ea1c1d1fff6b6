"""``slm-train --help``: what most runs need, by group; ``--help_all`` has every flag."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from slm_data import SourceOptions
from slm_train.arguments import BudgetOptions, ModelOptions, RowOptions, RunOptions, SlmTrainingArguments
from slm_train.budget_flags import asked_for, hidden

OPENING = """\
slm-train: fine-tune a small language model, and see what it cost.

  slm-train                                              the built-in base on the built-in corpus
  slm-train --dataset tinystories --mode lora            distilgpt2 on a dataset of the hub
  slm-train --train_file "texts/*.txt" --model_path gpt2 --mode qlora
  slm-train --config run.yaml --learning_rate 1e-4       flags from a file; the line wins
  slm-train ... --resume_from_checkpoint                 go on where a run was stopped
  slm-train dynamic ...                                  the token-budget loop; slm-train dynamic --help
"""

OPENING_DYNAMIC = """\
slm-train dynamic: steps of as many tokens as you say, a checkpoint after each, and exact resume.

  slm-train dynamic                                      the built-in base on the built-in corpus
  slm-train dynamic --dataset tinystories --target_tokens_per_step 4096
  slm-train dynamic ... --resume_from_checkpoint         go on after the last step, whatever ended the run
  torchrun --nproc_per_node 2 -m slm_train.cli dynamic ...

Rows of like length share a micro-batch (--packing none); the optimizer steps with the row that reaches
the budget, and the loss is divided by the tokens of the step: the gradient is that of one big batch.
"""

# Of TrainingArguments, those that most runs set, in our words.
TRAINING = {
    "output_dir": "The run folder. Default: outputs/<dataset>-<mode>.",
    "learning_rate": "Highest learning rate. Default: 5e-5 baseline, 2e-4 LoRA, 1e-2 butterflies; more on the sample.",
    "num_train_epochs": "Passes over the training rows. Default: 1.",
    "max_steps": "Optimizer steps, in place of epochs.",
    "per_device_train_batch_size": "Rows of a micro-batch. Default: 8.",
    "gradient_accumulation_steps": "Micro-batches of an optimizer step. Default: 1.",
    "per_device_eval_batch_size": "Rows evaluated at once. Default: 8.",
    "gradient_checkpointing": "Compute activations anew on the way back: less memory, slower.",
    "warmup_steps": "Steps in which the rate rises; below 1, a share of the run.",
    "lr_scheduler_type": "linear (default), cosine, constant, warmup_stable_decay ...",
    "weight_decay": "Decoupled weight decay, not on biases and norms. Default: 0.",
    "max_grad_norm": "Gradients are clipped to this norm; 0 for never. Default: 1.",
    "optim": "adamw_torch_fused (default), adafactor, sgd, paged_adamw_8bit ...",
    "bf16": "bfloat16 autocast. Default: on where the device multiplies in it.",
    "fp16": "float16 autocast, on a GPU without bfloat16.",
    "use_cpu": "Train on the CPU though there is a GPU.",
    "eval_strategy": "no (default), steps or epoch: when to evaluate on the way.",
    "eval_steps": "Steps between evaluations.",
    "save_steps": "Steps between checkpoints. Default: 500.",
    "save_total_limit": "Checkpoints to keep. Default: 2.",
    "logging_steps": "Steps between logged losses. Default: 10.",
    "report_to": "Where logs go beside metrics.jsonl: tensorboard, wandb ...",
    "resume_from_checkpoint": "Go on from the newest complete checkpoint, or from the one named.",
    "seed": "Decides the order of rows and every random number. Default: 42.",
}

# What some flags mean in the token-budget loop.
DYNAMIC_ROWS = {
    "packing": "How rows are filled. none (default): one document a row, rows of like length in a micro-batch; "
    "best_fit: documents side by side, apart from each other; concat: one stream, cut in blocks."
}
DYNAMIC_TRAINING = {
    "output_dir": "The run folder. Default: outputs/<dataset>-<mode>-dynamic.",
    "per_device_train_batch_size": "Most rows of a micro-batch. Default: as many as its tokens allow.",
    "resume_from_checkpoint": "Go on after the last step; with nothing to resume, start afresh.",
}

GROUPS: dict[str, type[Any]] = {
    "texts": SourceOptions,
    "model and mode": ModelOptions,
    "rows": RowOptions,
    "run": RunOptions,
}
LEFT = 34  # columns for a flag and its value


def help_asked(argv: Sequence[str]) -> bool:
    return bool({"-h", "--help", "--help_all", "--help-all"} & set(argv))


def help_page(argv: Sequence[str]) -> str:
    """The page as text, as wide as the terminal up to 110 columns."""
    everything = bool({"--help_all", "--help-all"} & set(argv))
    dynamic = asked_for(argv)
    width = max(60, min(110, shutil.get_terminal_size((100, 24)).columns))
    lines = [OPENING_DYNAMIC if dynamic else OPENING]
    for title, group in ({"token budget": BudgetOptions} | GROUPS if dynamic else GROUPS).items():
        shown = [flag for flag in fields(group) if not (dynamic and hidden(flag.name))]
        texts = DYNAMIC_ROWS if dynamic else {}
        lines += [f"{title}:"]
        lines += [*(line for flag in shown for line in _lines(flag, texts.get(flag.name, ""), width)), ""]
    taken = [flag for flag in fields(SlmTrainingArguments) if flag.init and not (dynamic and hidden(flag.name))]
    texts = TRAINING | DYNAMIC_TRAINING if dynamic else TRAINING
    lines += ["training:", *_training({flag.name: flag for flag in taken}, texts, everything, width), ""]
    if not everything:
        more = sum(flag.name not in texts for flag in taken)
        command = "slm-train dynamic" if dynamic else "slm-train"
        lines.append(f"{command} --help_all has {more} more flags: all of Hugging Face's TrainingArguments.")
    return "\n".join(lines)


def _training(flags: dict[str, Field[Any]], texts: dict[str, str], everything: bool, width: int) -> Iterator[str]:
    """Those that have a text of ours, in the order of the texts, then ``everything`` else."""
    for name, text in texts.items():
        if name in flags:
            yield from _lines(flags.pop(name), text, width)
    for flag in flags.values() if everything else ():
        yield from _lines(flag, "", width)


def _lines(flag: Field[Any], text: str, width: int) -> Iterator[str]:
    left = f"  --{flag.name} {'false' if flag.default is True else _value(str(flag.type))}".rstrip()
    wrapped = textwrap.wrap(text or _text(flag), width - LEFT) or [""]
    if len(left) >= LEFT:
        yield left
        left = ""
    yield f"{left:{LEFT}}{wrapped[0]}"
    yield from (" " * LEFT + line for line in wrapped[1:])


def _value(kind: str) -> str:
    for word, value in (("list", "A B ..."), ("bool", ""), ("int", "N"), ("float", "X")):
        if word in kind:
            return value
    return "TEXT"


def _text(flag: Field[Any]) -> str:
    said = " ".join(str(flag.metadata.get("help", "")).split())
    said = said[:1].upper() + said[1:] + ("" if said.endswith(".") else ".")
    is_said = isinstance(flag.default, bool) or flag.default in (MISSING, None, "", -1)  # by the flag's shape, or none
    return said if is_said or "efault" in said else f"{said} Default: {flag.default}."
