"""The runs that bench_budget.py and bench_loop_overhead.py time: one of each way to train on the same texts."""

from __future__ import annotations

import importlib
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from budget_setting import Setting
from slm_data import IGNORE, plan_budget
from slm_train.arguments import Arguments
from slm_train.data import Rows, make_plan, make_rows
from slm_train.dynamic import BudgetTrainer
from slm_train.micro_batches import Batch, predicted
from slm_train.modes import Base
from slm_train.parsing import parse
from slm_train.step_checkpoint import StepCheckpoint
from slm_train.trainer import SlmTrainer

NEVER = 10**9  # steps
FLOW, PLAIN, TRL = "trainer flow", "plain Trainer", "TRL"


class Clock(TrainerCallback):
    """When each step ended, and how long the loop had waited for ``checkpoint`` by then."""

    def __init__(self, checkpoint: StepCheckpoint | None = None) -> None:
        self.checkpoint = checkpoint
        self.ends: list[float] = []
        self.waits: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(now())
        self.waits.append(self.checkpoint.seconds if self.checkpoint else 0.0)

    @property
    def seconds(self) -> float:
        """Of all steps but the first."""
        return self.ends[-1] - self.ends[0]


class NoCheckpoint(StepCheckpoint):
    """The loop writes one at its end, whatever it is told."""

    def save(self, *_: Any) -> None:
        pass


@dataclass
class Outcome:
    """Of one run: its speed, and the tokens of each full step of an epoch."""

    speed: float
    step_tokens: list[int]


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def prepared(setting: Setting, flow: str, folder: str, seed: int) -> tuple[Arguments, Base, Rows]:
    """Of one of slm-train's flows, as its command line makes them."""
    options = setting.options
    words = f"{flow} --mode {options.mode} --output_dir {folder} --seed {seed} --max_steps {options.steps}"
    words += f" --dataset {options.dataset} --block_size {options.block_size} --bf16 {options.bf16}"
    arguments = parse(words.split())
    base = Base("", "", GPT2Config(), setting.tokenizer)
    return arguments, base, make_rows(arguments, setting.corpus, base, silent)


def silent(_: str) -> None:
    """Nothing is said of rows and plans."""


def parts(setting: Setting, arguments: Arguments, rows: Rows, seed: int) -> dict[str, Any]:
    """What both trainers of slm-train are made of."""
    return {
        "model": setting.model(seed, ours=True),
        "args": arguments.training,
        "rows": rows.train,
        "eval_rows": rows.validation,
        "processing_class": setting.tokenizer,
    }


def loop_trainer(setting: Setting, folder: str, seed: int, packing: str, interval: int) -> BudgetTrainer:
    options = setting.options
    flow = f"dynamic --packing {packing} --target_tokens_per_step {options.budget} --log_interval {NEVER}"
    flow += f" --max_tokens_per_micro_batch {options.micro} --checkpoint_interval {interval}"
    arguments, base, rows = prepared(setting, flow, folder, seed)
    plan = make_plan(arguments, base, rows, silent)
    assert plan
    assert arguments.budget
    checkpoint = (NoCheckpoint if interval == NEVER else StepCheckpoint)(Path(folder), {}, silent)
    return BudgetTrainer(
        plan=plan, budget=arguments.budget, checkpoint=checkpoint, state=None, say=silent,
        **parts(setting, arguments, rows, seed),
    )  # fmt: skip


def loop(setting: Setting, folder: str, seed: int, packing: str = "none") -> Outcome:
    trainer: Any = loop_trainer(setting, folder, seed, packing, NEVER)
    clock = Clock()
    train(trainer, clock)
    epoch = plan_budget(trainer.train_dataset.plan, trainer.plan.budget, seed=seed)
    return Outcome(int(trainer.plan.tokens[1:].sum()) / clock.seconds, epoch.full.tolist())


def packed_loop(setting: Setting, folder: str, seed: int) -> Outcome:
    return loop(setting, folder, seed, "best_fit")


def trainer_flow(setting: Setting, folder: str, seed: int) -> Outcome:
    batch = setting.options.batch
    block = setting.options.block_size
    lengths = [min(block, len(ids) - at) - 1 for ids in setting.documents for at in range(0, len(ids), block)]
    flow = "--packing none --train_sampling_strategy random --save_strategy no --logging_strategy no"
    flow += f" --per_device_train_batch_size {batch}"
    flow += f" --gradient_accumulation_steps {setting.accumulation(batch * statistics.mean(lengths))}"
    arguments, _, rows = prepared(setting, flow, folder, seed)
    return outcome(SlmTrainer(**parts(setting, arguments, rows, seed)))


def plain_trainer(setting: Setting, folder: str, seed: int) -> Outcome:
    cut: Any = [ids[: setting.options.block_size] for ids in setting.documents]
    batch = setting.options.batch
    tokens = batch * statistics.mean(len(ids) - 1 for ids in cut)
    settings = TrainingArguments(**common(setting, folder, seed, batch, tokens))
    return outcome(Trainer(setting.model(seed, ours=False), settings, padded, cut))


def padded(documents: list[list[int]]) -> Batch:
    """Padded to the longest."""
    longest = max(map(len, documents))
    ids = torch.tensor([document + [0] * (longest - len(document)) for document in documents])
    mask = torch.tensor([[1] * len(document) + [0] * (longest - len(document)) for document in documents])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORE)}


def trl_trainer(setting: Setting, folder: str, seed: int) -> Outcome:
    trl, datasets = importlib.import_module("trl"), importlib.import_module("datasets")
    datasets.disable_progress_bars()
    batch, block = setting.options.trl_batch, setting.options.block_size
    settings = trl.SFTConfig(
        packing=True, packing_strategy="bfd", max_length=block, shuffle_dataset=True, gradient_checkpointing=False,
        **common(setting, folder, seed, batch, batch * block),
    )  # fmt: skip
    texts = datasets.Dataset.from_dict({"input_ids": setting.documents})
    model = setting.model(seed, ours=False)
    return outcome(trl.SFTTrainer(model, settings, train_dataset=texts, processing_class=setting.tokenizer))


def common(setting: Setting, folder: str, seed: int, batch: int, tokens: float) -> dict[str, Any]:
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


def train(trainer: Trainer, *callbacks: TrainerCallback) -> None:
    for unwanted in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(unwanted)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()


def outcome(trainer: Any) -> Outcome:
    """Of a Trainer with Hugging Face's own loop, which takes the micro-batches of a step all at once."""
    taken: list[int] = []
    take = trainer.get_batch_samples

    def counted(*given: Any) -> Any:
        batches, items = take(*given)
        taken.append(sum(map(predicted, batches)))
        return batches, items

    trainer.get_batch_samples = counted
    clock = Clock()
    train(trainer, clock)
    return Outcome(sum(taken[1 : len(clock.ends)]) / clock.seconds, epoch_of(trainer))


def epoch_of(trainer: Any) -> list[int]:
    """Tokens of each full step of an epoch."""
    micro, each = trainer.args.gradient_accumulation_steps, list(map(predicted, trainer.get_train_dataloader()))
    full = len(trainer.train_dataset) // (micro * trainer.args.train_batch_size)
    return [sum(each[at : at + micro]) for at in range(0, full * micro, micro)]
