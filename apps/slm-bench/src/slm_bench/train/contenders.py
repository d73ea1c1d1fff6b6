"""Contenders that train on the same texts: slm-train's flows, the plain Trainer and TRL."""

import importlib
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from slm_bench.train.inputs import Inputs
from slm_bench.train.slm_trainers import budget_trainer, flow_trainer
from slm_bench.train.step_timing import Outcome, StepTimer, epoch_step_tokens, tokens_per_second, train_quietly
from slm_data import IGNORE_INDEX, plan_budget
from slm_train import MicroBatch

FLOW, PLAIN, TRL = "Trainer flow, a document a row", "plain Trainer, padded to the longest", "TRL, packed"


def budget_loop(inputs: Inputs, folder: str, seed: int, packing: str) -> Outcome:
    """Run ``slm-train dynamic --packing PACKING``."""
    trainer: Any = budget_trainer(inputs, folder, seed, packing)
    timer = StepTimer()
    train_quietly(trainer, timer)
    epoch = plan_budget(trainer.train_dataset.plan, trainer.plan.budget, seed=seed)
    return Outcome(int(trainer.plan.tokens[1:].sum()) / timer.seconds, tuple(epoch.full.tolist()))


def trainer_flow(inputs: Inputs, folder: str, seed: int) -> Outcome:
    """Run ``slm-train --packing none`` in random order: fixed micro-batches padded to their longest row."""
    batch, block = inputs.options.batch, inputs.options.block_size
    lengths = [min(block, len(ids) - first) - 1 for ids in inputs.documents for first in range(0, len(ids), block)]
    words = f"--packing none --train_sampling_strategy random --per_device_train_batch_size {batch}"
    words += f" --gradient_accumulation_steps {inputs.accumulation(batch * statistics.mean(lengths))}"
    return _outcome(flow_trainer(inputs, folder, seed, words))


def plain_trainer(inputs: Inputs, folder: str, seed: int) -> Outcome:
    """Run Hugging Face's Trainer on documents cut off at the block size; the rest is not trained on."""
    cut: Any = [ids[: inputs.options.block_size] for ids in inputs.documents]
    batch = inputs.options.batch
    settings = peer_arguments(inputs, folder, seed, batch, batch * statistics.mean(len(ids) - 1 for ids in cut))
    return _outcome(Trainer(inputs.new_model(seed, ours=False), TrainingArguments(**settings), pad, cut))


def trl_trainer(inputs: Inputs, folder: str, seed: int) -> Outcome:
    """Run TRL's SFTTrainer with bfd packing and without activation checkpointing."""
    trl, datasets = map(importlib.import_module, ("trl", "datasets"))  # both optional: TRL brings datasets
    datasets.disable_progress_bars()
    batch, block = inputs.options.trl_batch, inputs.options.block_size
    settings = trl.SFTConfig(
        packing=True,
        packing_strategy="bfd",
        max_length=block,
        shuffle_dataset=True,
        gradient_checkpointing=False,
        **peer_arguments(inputs, folder, seed, batch, batch * block),
    )
    texts = datasets.Dataset.from_dict({"input_ids": inputs.documents})
    model = inputs.new_model(seed, ours=False)
    return _outcome(trl.SFTTrainer(model, settings, train_dataset=texts, processing_class=inputs.tokenizer))


CONTENDERS: dict[str, Callable[[Inputs, str, int], Outcome]] = {
    "loop, a document a row": partial(budget_loop, packing="none"),
    "loop, packed": partial(budget_loop, packing="best_fit"),
    FLOW: trainer_flow,
    PLAIN: plain_trainer,
    TRL: trl_trainer,
}


def pad(documents: list[list[int]], length: int = 0) -> MicroBatch:
    """Pad to the longest document, or to ``length`` if that is more. Padding has no loss."""
    longest = max(length, *map(len, documents))
    input_ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in documents])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in documents])
    return {"input_ids": input_ids, "attention_mask": mask, "labels": input_ids.masked_fill(mask == 0, IGNORE_INDEX)}


def peer_arguments(inputs: Inputs, folder: str, seed: int, batch: int, micro_batch_tokens: float) -> dict[str, Any]:
    """Return TrainingArguments of a peer whose steps hold about the token budget."""
    accumulation, cpu = inputs.accumulation(micro_batch_tokens), not torch.cuda.is_available()
    steps = {"max_steps": inputs.options.steps, "gradient_accumulation_steps": accumulation}
    quiet = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no"}
    data = {"per_device_train_batch_size": batch, "remove_unused_columns": False, "dataloader_pin_memory": False}
    return {"output_dir": folder, "seed": seed, "bf16": inputs.options.bf16, "use_cpu": cpu, **steps, **data, **quiet}


def _outcome(trainer: Any) -> Outcome:
    return Outcome(tokens_per_second(trainer), epoch_step_tokens(trainer))
