"""From flags to a run folder, by the Trainer or by the token-budget loop: read it from top to bottom."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from slm_data import BudgetPlan, load_corpus
from slm_train.accounting import Memory, count_parameters, weight_bytes
from slm_train.arguments import Arguments
from slm_train.callbacks import Accounts, Bar, MetricsLog, StopSignals
from slm_train.checkpoint import disk_explained
from slm_train.data import Rows, make_plan, make_rows, summary
from slm_train.device import fastest_threads
from slm_train.dynamic import BudgetTrainer
from slm_train.estimate import optimizer_steps, show_dry_run
from slm_train.identity import identity_of
from slm_train.memory_errors import out_of_memory_explained
from slm_train.modes import Base, build_model, find_base
from slm_train.report import next_command, show_report
from slm_train.resume import Start, choose_start
from slm_train.run_record import cut_last_evaluation, environment, write_run
from slm_train.samples import continue_prompt
from slm_train.step_checkpoint import StepCheckpoint
from slm_train.time_budget import TimeBudget, spent
from slm_train.trainer import SlmTrainer


@dataclass
class Run:
    """One run under way: what was asked for, what it runs on, what it will leave."""

    arguments: Arguments
    start: Start
    base: Base
    rows: Rows
    memory: Memory
    record: dict[str, Any]
    plan: BudgetPlan | None  # of the token-budget loop
    time: TimeBudget | None  # of --max_minutes

    @property
    def steps(self) -> int:
        return len(self.plan) if self.plan else optimizer_steps(self.arguments, self.rows)

    @property
    def is_trained(self) -> bool:
        """Whether the checkpoint that it goes on from is of its end."""
        return self.start.step >= self.steps or (self.time is not None and self.time.share >= 1)


def run(arguments: Arguments) -> int:
    """Train as ``arguments`` say and leave a run folder. Returns the exit code: 0, or 128 + signal."""
    console = Console(soft_wrap=True, highlight=False, quiet=not arguments.training.should_log)
    disable_progress_bar()
    for note in arguments.notes:
        console.print(note)
    start = choose_start(arguments, console.print)
    _set_threads(arguments, start, console)
    corpus = load_corpus(arguments.source)
    for note in corpus.notes:
        console.print(note)
    base = find_base(arguments.model, arguments.model_name, corpus.train)
    if base.note:
        console.print(base.note)
    rows = make_rows(arguments, corpus, base, console.print)
    identity = identity_of(arguments, base, rows)
    start.check_same(identity)
    plan = make_plan(arguments, base, rows, console.print)
    if plan:
        start.check_plan(plan)
    record = {"flow": "dynamic" if plan else "trainer", "identity": identity}
    memory = Memory(arguments.training.device)
    current = Run(arguments, start, base, rows, memory, record, plan, _time_budget(arguments, start))
    if arguments.run.dry_run:
        return _dry_run(console, current)
    memory_explained = out_of_memory_explained(arguments, rows.block_size)
    with disk_explained(start.folder), memory_explained, StopSignals() as signals:
        trainer = _prepare(current, corpus.name, console, signals)
        _before(current, trainer)
        _train(current, trainer)
        if signals.received:
            return _stopped(current, console, signals)
        _after(current, trainer)
    show_report(console, current.record)
    console.print(f"\nrun folder: {start.folder}\nnext: {next_command(current.record)}")
    return 0


def _time_budget(arguments: Arguments, start: Start) -> TimeBudget | None:
    if arguments.run.max_minutes is None:
        return None
    return TimeBudget(arguments.run.max_minutes, spent(start.checkpoint) if start.checkpoint else 0.0)


def _set_threads(arguments: Arguments, start: Start, console: Console) -> None:
    """The flag, the count that the resumed run had (sums of other orders differ in the last bit), or
    the fastest of a probe."""
    if not arguments.training.use_cpu:
        return
    recorded = start.record["device"]["threads"] if start.record else None
    threads = arguments.run.threads or recorded or fastest_threads()
    torch.set_num_threads(threads)
    precision = "bfloat16 autocast" if arguments.training.bf16 else "float32"
    console.print(f"CPU, {threads} {'thread' if threads == 1 else 'threads'} (--threads), {precision} (--bf16)")


def _prepare(current: Run, dataset: str, console: Console, signals: StopSignals) -> SlmTrainer:
    """The folder, the model and the Trainer; everything that can be refused has been by now."""
    arguments, memory = current.arguments, current.memory
    set_seed(arguments.training.seed)
    before_wrapping = memory.now()
    model = build_model(arguments, current.base)
    trainer = _trainer(current, model, signals, console)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    log, bar = MetricsLog(current.start.folder, current.time), Bar(console, _tokens(current.plan), current.time)
    for callback in (*([current.time] if current.time else []), log, bar):
        trainer.add_callback(callback)
    current.record |= _opening_record(current, dataset, model, before_wrapping)
    trainer.accelerator.wait_for_everyone()  # each has looked at the folder before one writes there
    if arguments.training.should_save:
        current.start.prepare()
        write_run(current.start.folder, current.record)
    trainer.accelerator.wait_for_everyone()
    return trainer


def _trainer(current: Run, model: PreTrainedModel, signals: StopSignals, console: Console) -> SlmTrainer:
    arguments = current.arguments
    settings: dict[str, Any] = {
        "model": model,
        "args": arguments.training,
        "rows": current.rows.train,
        "eval_rows": current.rows.validation,
        "processing_class": current.base.tokenizer,
        "muon": arguments.run.muon,
        "fused_loss": arguments.run.fused_loss,
        "callbacks": [signals],
    }
    if not current.plan:
        return SlmTrainer(**settings)
    assert arguments.budget
    return BudgetTrainer(
        plan=current.plan,
        budget=arguments.budget,
        checkpoint=StepCheckpoint(current.start.folder, current.record["identity"], console.print),
        state=current.start.state,
        say=console.print,
        **settings,
    )


def _tokens(plan: BudgetPlan | None) -> int | None:
    return int(plan.tokens.sum()) if plan else None


def _opening_record(current: Run, dataset: str, model: PreTrainedModel, before_wrapping: int) -> dict[str, Any]:
    arguments, rows = current.arguments, current.rows
    parameters = count_parameters(model)
    return {
        "status": "running",
        "mode": arguments.model.mode,
        "base": current.base.name,
        "dataset": dataset,
        **environment(arguments.training.device, arguments.device_name),
        "data": {"train": summary(rows.train), "validation": summary(rows.validation)},
        "parameters": {"trainable": parameters.trainable, "total": parameters.total},
        "memory": {
            "kind": current.memory.kind,
            "before_model": before_wrapping,
            "with_model": current.memory.now(),
            "weights": weight_bytes(model),
        },
        "evaluation": _before_of(current.start, "evaluation"),
        "samples": _before_of(current.start, "samples"),
        "arguments": arguments.as_dict(),
    }


def _before_of(start: Start, part: str) -> dict[str, Any]:
    """What a resumed run found before its first step; in the record from the start, whatever ends this run."""
    recorded = start.record[part] if start.record else {}
    return {when: found for when, found in recorded.items() if when == "before"}


def _before(current: Run, trainer: SlmTrainer) -> None:
    """The base on the validation rows; a resumed run has that in its record."""
    if "before" not in current.record["evaluation"]:
        _look(current, trainer, "before", trainer.evaluate())


def _look(current: Run, trainer: SlmTrainer, when: str, metrics: dict[str, Any]) -> None:
    kept = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    for unwanted in ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time"):
        kept.pop(unwanted, None)
    current.record["evaluation"][when] = kept
    prompt = current.arguments.run.prompt
    if prompt:
        held: Any = trainer.model
        current.record["samples"][when] = continue_prompt(held, current.base.tokenizer, prompt)
    if current.arguments.training.should_save:
        write_run(current.start.folder, current.record)


def _train(current: Run, trainer: SlmTrainer) -> None:
    accounts, checkpoint = Accounts(), current.start.checkpoint
    trainer.add_callback(accounts)
    current.memory.reset_peak()
    set_seed(current.arguments.training.seed)
    if checkpoint and current.is_trained:
        trainer.load_weights(checkpoint)  # Hugging Face's loop would take one more step
        if current.arguments.training.should_save:
            cut_last_evaluation(current.start.folder, current.start.step)
    elif isinstance(trainer, BudgetTrainer):
        trainer.train()
        current.record["checkpoints"] = trainer.checkpoint.account()
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    _record_accounts(current, accounts, int(trainer.trained_tokens))


def _record_accounts(current: Run, accounts: Accounts, tokens: int) -> None:
    before = current.start.record
    if not accounts.steps and before and "speed" in before:  # trained to its end already
        current.record |= {part: before[part] for part in ("memory", "speed")}
        return
    current.record["memory"] |= {
        "gradients": accounts.gradients,
        "optimizer": accounts.optimizer,
        "peak": current.memory.peak(),
    }
    current.record["speed"] = {
        "steps": accounts.steps,
        "tokens": tokens,
        "train_seconds": accounts.seconds,
        "tokens_per_second": tokens / max(accounts.seconds, 1e-9),
    }


def _stopped(current: Run, console: Console, signals: StopSignals) -> int:
    assert signals.received is not None
    if current.arguments.training.should_save:
        write_run(current.start.folder, current.record | {"status": "stopped"})
    console.print(
        f"stopped by {signals.received.name}, saved in {current.start.folder}; the same command with "
        "--resume_from_checkpoint goes on from there"
    )
    return signals.exit_code


def _after(current: Run, trainer: SlmTrainer) -> None:
    """Weights, tokenizer and the finished record, in that order: a finished record has weights."""
    _look(current, trainer, "after", trainer.evaluate_trained())
    current.record["status"] = "finished"
    if trainer.args.should_save:
        aside = current.start.folder / ".weights.writing"
        trainer.save_model(str(aside))
        _publish(aside, current.start.folder)
        write_run(current.start.folder, current.record)


def _publish(aside: Path, folder: Path) -> None:
    """Move files to their place one by one, each whole."""
    for file in sorted(aside.iterdir()):
        with file.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(file, folder / file.name)
    aside.rmdir()


def _dry_run(console: Console, current: Run) -> int:
    show_dry_run(console, current.arguments, current.base, current.rows, current.steps)
    return 0
