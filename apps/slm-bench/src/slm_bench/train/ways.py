"""The ways to train on the same texts: slm-train's, and what people use beside it."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from slm_bench.train.clock import Clock, Outcome, epoch_of, timed, train
from slm_bench.train.flows import flow_trainer, loop_trainer
from slm_bench.train.setting import Setting
from slm_data import IGNORE_INDEX as IGNORE
from slm_data import plan_budget
from slm_train import MicroBatch as Batch

FLOW, PLAIN, TRL = "Trainer flow, a document a row", "plain Trainer, padded to the longest", "TRL, packed"


def loop(setting: Setting, folder: str, seed: int, packing: str = "none") -> Outcome:
    """slm-train dynamic, a document a row."""
    trainer: Any = loop_trainer(setting, folder, seed, packing)
    clock = Clock()
    train(trainer, clock)
    epoch = plan_budget(trainer.train_dataset.plan, trainer.plan.budget, seed=seed)
    return Outcome(int(trainer.plan.tokens[1:].sum()) / clock.seconds, tuple(epoch.full.tolist()))


def packed_loop(setting: Setting, folder: str, seed: int) -> Outcome:
    """slm-train dynamic --packing best_fit."""
    return loop(setting, folder, seed, "best_fit")


def trainer_flow(setting: Setting, folder: str, seed: int) -> Outcome:
    """slm-train --packing none, in random order: fixed micro-batches padded to their longest."""
    batch, block = setting.options.batch, setting.options.block_size
    lengths = [min(block, len(ids) - at) - 1 for ids in setting.documents for at in range(0, len(ids), block)]
    words = f"--packing none --train_sampling_strategy random --per_device_train_batch_size {batch}"
    words += f" --gradient_accumulation_steps {setting.accumulation(batch * statistics.mean(lengths))}"
    return _outcome(flow_trainer(setting, folder, seed, words))


def plain_trainer(setting: Setting, folder: str, seed: int) -> Outcome:
    """Hugging Face's, on documents cut off at the block: the rest is not trained on."""
    cut: Any = [ids[: setting.options.block_size] for ids in setting.documents]
    batch = setting.options.batch
    settings = _arguments(setting, folder, seed, batch, batch * statistics.mean(len(ids) - 1 for ids in cut))
    return _outcome(Trainer(setting.model(seed, ours=False), TrainingArguments(**settings), padded, cut))


def trl_trainer(setting: Setting, folder: str, seed: int) -> Outcome:
    """SFTTrainer, packing bfd, no activation checkpointing."""
    trl, datasets = map(importlib.import_module, ("trl", "datasets"))  # only where trl is: it takes a Dataset
    datasets.disable_progress_bars()
    batch, block = setting.options.trl_batch, setting.options.block_size
    settings = trl.SFTConfig(
        packing=True,
        packing_strategy="bfd",
        max_length=block,
        shuffle_dataset=True,
        gradient_checkpointing=False,
        **_arguments(setting, folder, seed, batch, batch * block),
    )
    texts = datasets.Dataset.from_dict({"input_ids": setting.documents})
    model = setting.model(seed, ours=False)
    return _outcome(trl.SFTTrainer(model, settings, train_dataset=texts, processing_class=setting.tokenizer))


WAYS: dict[str, Callable[[Setting, str, int], Outcome]] = {
    "loop, a document a row": loop,
    "loop, packed": packed_loop,
    FLOW: trainer_flow,
    PLAIN: plain_trainer,
    TRL: trl_trainer,
}


def padded(documents: list[list[int]], length: int = 0) -> Batch:
    """Padded to the longest, or to ``length`` where that is more."""
    longest = max(length, *map(len, documents))
    ids = torch.tensor([document + [0] * (longest - len(document)) for document in documents])
    mask = torch.tensor([[1] * len(document) + [0] * (longest - len(document)) for document in documents])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORE)}


def _arguments(setting: Setting, folder: str, seed: int, batch: int, tokens: float) -> dict[str, Any]:
    """TrainingArguments of those that are not ours. ``tokens``: of a micro-batch."""
    return {
        "output_dir": folder,
        "max_steps": setting.options.steps,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": setting.accumulation(tokens),
        "seed": seed,
        "bf16": setting.options.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }


def _outcome(trainer: Any) -> Outcome:
    return Outcome(timed(trainer), epoch_of(trainer))
