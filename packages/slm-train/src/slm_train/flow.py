"""A training run, from options to a run folder, in either flow. ``run`` is the outline; its steps follow in order."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from transformers import PreTrainedModel, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from slm_data import load_corpus
from slm_train.arguments import Arguments
from slm_train.checkpoints.best_weights import BestWeights
from slm_train.checkpoints.disk_errors import explain_disk_errors
from slm_train.checkpoints.final_weights import move_files
from slm_train.checkpoints.resume import Start, choose_start
from slm_train.checkpoints.run_identity import run_identity
from slm_train.checkpoints.step_checkpoint import StepCheckpoint
from slm_train.data.budget_plan import make_plan
from slm_train.data.row_tokens import check_row_tokens
from slm_train.data.rows import Tokens, lay_out_rows, tokenize_corpus
from slm_train.data.verified_packing import packing_of_resumed_run, packing_record, verify_packing
from slm_train.hardware.memory_usage import MemoryUsage
from slm_train.hardware.out_of_memory import explain_out_of_memory
from slm_train.hardware.thread_count import set_threads
from slm_train.loop.budget_trainer import BudgetTrainer
from slm_train.loop.evaluation_schedule import schedule_evaluations
from slm_train.loop.stop_signals import StopSignals
from slm_train.loop.time_budget import TimeBudget, read_seconds_spent
from slm_train.loop.trainer import SlmTrainer
from slm_train.model.base_model import BaseModel, find_base_model
from slm_train.model.device_placement import move_to_device
from slm_train.model.model_building import build_model
from slm_train.reports.dry_run import show_dry_run
from slm_train.reports.final_report import next_command, show_report
from slm_train.reports.loggers import explain_logger_errors, prepare_loggers
from slm_train.reports.metrics_log import MetricsLog
from slm_train.reports.progress_bar import ProgressBar
from slm_train.reports.sampling import Sampling
from slm_train.reports.training_costs import TrainingCosts
from slm_train.run_folder.metrics_file import cut_last_evaluation
from slm_train.run_folder.run_record import write_run
from slm_train.run_recording import opening_record, record_best, record_costs, record_evaluation
from slm_train.training_run import Run


def run(arguments: Arguments) -> int:
    """Train with ``arguments`` and leave a run folder. Returns the exit code: 0, or 128 + a signal."""
    console = Console(soft_wrap=True, highlight=False, quiet=not arguments.training.should_log)
    disable_progress_bar()
    for note in arguments.notes:
        console.print(note)
    # Cheap checks come first: nothing has been downloaded, tokenised or written yet.
    start = choose_start(arguments, console.print)
    set_threads(arguments, start.record, console.print)
    corpus = load_corpus(arguments.source)
    for note in corpus.notes:
        console.print(note)
    base = find_base_model(arguments.model, arguments.model_name, corpus.train)
    if base.note:
        console.print(base.note)
    arguments = packing_of_resumed_run(arguments, start.record, console.print)
    tokens = tokenize_corpus(arguments, corpus, base, console.print)
    check_row_tokens(arguments, base, tokens)
    # All checks that do not need the weights come before they are loaded, with the packing that was asked for.
    current = _lay_out(arguments, start, base, tokens, console)
    if arguments.run.dry_run:
        show_dry_run(console, arguments, base, current.rows, current.steps)
        return 0
    memory_explained = explain_out_of_memory(arguments, tokens.block_size)
    with explain_disk_errors(start.folder), memory_explained, explain_logger_errors(), StopSignals() as signals:
        current, model = _load_model(current, console)
        trainer = _prepare(current, model, corpus.name, console, signals)
        _evaluate_before(current, trainer)
        _train(current, trainer)
        if signals.received:
            return _stop(current, console, signals)
        record_best(current, trainer, console.print)
        _evaluate_and_save(current, trainer)
    show_report(console, current.record)
    console.print(f"\nrun folder: {start.folder}\nnext: {next_command(current.record)}")
    return 0


def _lay_out(arguments: Arguments, start: Start, base: BaseModel, tokens: Tokens, console: Console) -> Run:
    """Lay the tokens out in rows and plan the run. Raises an error if it is not the run to be resumed."""
    rows = lay_out_rows(arguments, tokens, base, console.print)
    identity = run_identity(arguments, base, rows)
    start.check_identity(identity)
    plan = make_plan(arguments, base, rows, console.print)
    if plan:
        start.check_plan(plan)
    record = {"flow": "dynamic" if plan else "trainer", "identity": identity}
    memory = MemoryUsage(arguments.training.device)
    best = _best_weights(arguments, start, console)
    current = Run(arguments, start, base, tokens, rows, memory, record, plan, _time_budget(arguments, start), best)
    current.arguments = schedule_evaluations(arguments, current.steps, console.print)
    return current


def _time_budget(arguments: Arguments, start: Start) -> TimeBudget | None:
    if arguments.run.max_minutes is None:
        return None
    spent = read_seconds_spent(start.checkpoint) if start.checkpoint else 0.0
    return TimeBudget(arguments.run.max_minutes, spent)


def _best_weights(arguments: Arguments, start: Start, console: Console) -> BestWeights:
    best = BestWeights(start.folder, arguments.run.patience, arguments.run.keep_best)
    if start.best:
        best.restore(start.best, console.print)
    return best


def _load_model(current: Run, console: Console) -> tuple[Run, PreTrainedModel]:
    """Build the model and verify it. If it does not keep packed documents apart, the run gets other rows."""
    arguments, memory = current.arguments, current.memory
    set_seed(arguments.training.seed)
    before_model = memory.current()
    model = move_to_device(build_model(arguments, current.base), arguments)
    usage = {"kind": memory.kind, "before_model": before_model, "with_model": memory.current()}
    verified, reason = verify_packing(arguments, model, current.tokens.block_size, console.print)
    if reason:
        current = _lay_out(verified, current.start, current.base, current.tokens, console)
    packing = packing_record(verified, reason, current.start.record)
    current.record |= {"packing": packing, "memory": usage}
    return current, model


def _prepare(current: Run, model: PreTrainedModel, dataset: str, console: Console, signals: StopSignals) -> SlmTrainer:
    """Create the trainer and the run folder. All checks have been made: this may delete an earlier run."""
    trainer = _make_trainer(current, model, signals, console)
    # ProgressBar and MetricsLog below replace them.
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    tokens = int(current.plan.tokens.sum()) if current.plan else None
    log = MetricsLog(current.start.folder, current.time_budget)
    progress = ProgressBar(console, tokens, current.time_budget)
    # The time budget first: the others read its seconds.
    for callback in (*([current.time_budget] if current.time_budget else []), log, progress):
        trainer.add_callback(callback)
    if every := current.arguments.run.sample_every:
        trainer.add_callback(Sampling(trainer, console, current.start.folder, every, [current.arguments.run.prompt]))
    current.record |= opening_record(current, dataset, model)
    trainer.accelerator.wait_for_everyone()  # every process has inspected the folder before one writes to it
    if trainer.args.should_save:
        current.start.prepare_folder()
        write_run(current.start.folder, current.record)
    prepare_loggers(trainer, current.start.folder, current.start.step)
    trainer.accelerator.wait_for_everyone()
    return trainer


def _make_trainer(current: Run, model: PreTrainedModel, signals: StopSignals, console: Console) -> SlmTrainer:
    arguments = current.arguments
    settings: dict[str, Any] = {
        "model": model,
        "args": arguments.training,
        "rows": current.rows.train,
        "eval_rows": current.rows.validation,
        "processing_class": current.base.tokenizer,
        "muon": arguments.run.muon,
        "fused_loss": arguments.run.fused_loss,
        "best": current.best,
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
        print_line=console.print,
        **settings,
    )


def _evaluate_before(current: Run, trainer: SlmTrainer) -> None:
    """Evaluate the base model, unless the resumed run has recorded that."""
    if "before" not in current.record["evaluation"]:
        record_evaluation(current, trainer, "before", trainer.evaluate())


def _train(current: Run, trainer: SlmTrainer) -> None:
    costs, checkpoint = TrainingCosts(), current.start.checkpoint
    trainer.add_callback(costs)
    # Loading and the evaluation before training are not part of the peak.
    current.memory.reset_peak()
    # Seeded again: a resumed run skips the evaluation and the sample above, and must draw the same numbers.
    set_seed(current.arguments.training.seed)
    if checkpoint and current.has_finished_training:
        trainer.load_weights(checkpoint)  # transformers' loop would take one more step
        if current.arguments.training.should_save and not trainer.last_evaluation:
            cut_last_evaluation(current.start.folder, current.start.step)
    elif isinstance(trainer, BudgetTrainer):
        trainer.train()
        current.record["checkpoints"] = trainer.checkpoint.summary()
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    record_costs(current, costs, int(trainer.trained_tokens))


def _stop(current: Run, console: Console, signals: StopSignals) -> int:
    assert signals.received is not None
    if current.arguments.training.should_save:
        write_run(current.start.folder, current.record | {"status": "stopped"})
    console.print(
        f"stopped by {signals.received.name}, saved in {current.start.folder}; continue with the same command and "
        "--resume_from_checkpoint"
    )
    return signals.exit_code


def _evaluate_and_save(current: Run, trainer: SlmTrainer) -> None:
    """Write weights and tokenizer, then the finished record: where run.json says finished, the weights exist."""
    record_evaluation(current, trainer, "after", trainer.evaluate_trained())
    current.record["status"] = "finished"
    if trainer.args.should_save:
        temporary = current.start.folder / ".weights.writing"
        trainer.save_model(str(temporary))
        move_files(temporary, current.start.folder)
        write_run(current.start.folder, current.record)
