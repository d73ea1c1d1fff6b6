"""A training run, from options to a run folder, in either flow. ``run`` and ``_carry_out`` are the outline."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedModel, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from slm_data import RowDataset, find_missing_dataset, load_corpus
from slm_train.arguments import Arguments
from slm_train.checkpoints.best_weights import BestWeights
from slm_train.checkpoints.files.disk_errors import explain_disk_errors
from slm_train.checkpoints.final_weights import add_model_card, move_files
from slm_train.checkpoints.hub_upload import prepare_upload, upload_result
from slm_train.checkpoints.identity_check import changes_record, check_identity, check_optimizer_state
from slm_train.checkpoints.resume import Start, choose_start
from slm_train.checkpoints.run_identity import run_identity
from slm_train.checkpoints.run_lock import only_run_in_folder
from slm_train.data.budget_plan import make_plan
from slm_train.data.chat_format import with_chat_format
from slm_train.data.evaluated_rows import evaluated_rows_of_resumed_run
from slm_train.data.prompts import choose_prompts
from slm_train.data.row_tokens import check_row_tokens
from slm_train.data.rows import Tokens, lay_out_rows, tokenize_corpus
from slm_train.data.run_length import choose_run_length
from slm_train.data.verified_packing import packing_of_resumed_run, packing_record, verify_packing
from slm_train.hardware.memory_usage import MemoryUsage
from slm_train.hardware.out_of_memory import explain_out_of_memory
from slm_train.hardware.thread_count import set_threads
from slm_train.learning_rate_search.search import search_learning_rate
from slm_train.loop.budget_trainer import BudgetTrainer
from slm_train.loop.evaluation_schedule import schedule_evaluations
from slm_train.loop.finite_check import check_evaluation
from slm_train.loop.stop_signals import StopSignals
from slm_train.loop.time_budget import make_time_budget
from slm_train.loop.trainer import SlmTrainer
from slm_train.loop.trial.schedule import check_schedule
from slm_train.micro_batch_size import choose_micro_batch_size, size_of_resumed_run
from slm_train.model.base_model import BaseModel, find_base_model
from slm_train.model.device_placement import move_to_device
from slm_train.model.download import will_be_downloaded
from slm_train.model.learning_rates import with_learning_rate
from slm_train.model.model_building import build_model
from slm_train.reports.dry_run import show_dry_run
from slm_train.reports.final_report import show_next_commands, show_report
from slm_train.reports.hints import find_hints
from slm_train.reports.loggers.settings import explain_logger_errors, prepare_loggers
from slm_train.reports.metrics_log import MetricsLog
from slm_train.reports.progress_bar import ProgressBar, progress_display
from slm_train.reports.run_summary import show_run_summary
from slm_train.reports.sampling import Sampling
from slm_train.reports.shown_rows import show_rows
from slm_train.reports.training_costs import TrainingCosts
from slm_train.run_folder.metrics_file import cut_last_evaluation
from slm_train.run_folder.run_record import write_run
from slm_train.run_recording import (
    opening_record,
    record_best,
    record_costs,
    record_evaluation,
    record_search,
    recorded_failure,
)
from slm_train.trainer_choice import make_trainer
from slm_train.training_run import Run


def run(arguments: Arguments) -> int:
    """Train with ``arguments`` and leave a run folder. Returns the exit code: 0, or 128 + a signal."""
    console = Console(soft_wrap=True, highlight=False, quiet=not arguments.training.should_log)
    disable_progress_bar()
    with only_run_in_folder(arguments, console.print):
        return _run_in_folder(arguments, console)


def _run_in_folder(arguments: Arguments, console: Console) -> int:
    current, dataset = _plan_run(arguments, console)
    if arguments.rows.show_rows:
        show_rows(console, current, arguments.rows.show_rows)
        return 0
    memory_explained = explain_out_of_memory(current.arguments, current.tokens.block_size)
    if arguments.run.dry_run:
        with memory_explained:
            show_dry_run(console, current)
        return 0
    with explain_disk_errors(current.start.folder), memory_explained, explain_logger_errors():
        return _carry_out(current, dataset, console)


def _carry_out(current: Run, dataset: str, console: Console) -> int:
    """Load the model, train, evaluate, save and report. Returns the exit code."""
    with StopSignals() as signals, progress_display(console) as bars:
        current, model = _load_model(current, console)
        trainer = _prepare(current, model, dataset, bars, signals)
        with recorded_failure(current):
            _find_learning_rate(current, trainer, console)
            show_run_summary(console, current, trainer)
            _evaluate_before(current, trainer)
            _train(current, trainer)
            if signals.received:
                return _stop(current, console, signals)
            record_best(current, trainer, console.print)
            _evaluate_and_save(current, trainer, console.print)
    _report(current, console)
    return 0


def _plan_run(arguments: Arguments, console: Console) -> tuple[Run, str]:
    """Make all checks that do not need the weights. Returns the run and the name of its dataset."""
    print_line = console.print
    _print_lines(arguments.notes, console)
    # Cheap checks come first: nothing has been downloaded, tokenised or written yet.
    start = choose_start(arguments, print_line)
    arguments = prepare_upload(arguments)
    set_threads(arguments, start.record, print_line)
    if dataset := find_missing_dataset(arguments.source):
        print_line(f"downloading the dataset {dataset} ...")
    corpus = load_corpus(arguments.source)
    base = find_base_model(arguments.model, arguments.model_name, corpus.train)
    _print_lines([*corpus.notes, *([base.note] if base.note else [])], console)
    base = with_chat_format(arguments, base, corpus, print_line)
    arguments = with_learning_rate(arguments, base, start.record)
    arguments = packing_of_resumed_run(arguments, start.record, print_line)
    arguments = evaluated_rows_of_resumed_run(arguments, start.record, print_line)
    arguments = size_of_resumed_run(arguments, start.identity)
    tokens = tokenize_corpus(arguments, corpus, base, print_line)
    check_row_tokens(arguments, base, tokens)
    arguments = choose_prompts(arguments, base, corpus, tokens, start.record, print_line)
    # With the packing that was asked for, before it is verified.
    current = _lay_out(arguments, start, base, tokens, console)
    if will_be_downloaded(base):
        print_line(f"downloading the weights of {base.name} ...")
    return current, corpus.name


def _lay_out(arguments: Arguments, start: Start, base: BaseModel, tokens: Tokens, console: Console) -> Run:
    """Lay the tokens out in rows and plan the run. Raises an error if it is not the run to be resumed."""
    rows = lay_out_rows(arguments, tokens, base, console.print)
    arguments = choose_run_length(arguments, rows, start.record, console.print)
    identity = run_identity(arguments, base, rows)
    changes = check_identity(start, identity, arguments, rows, console.print)
    plan = make_plan(arguments, base, rows, console.print)
    if plan:
        start.check_plan(plan)
    record = {"flow": "dynamic" if plan else "trainer", "identity": identity} | changes_record(start, changes)
    memory = MemoryUsage(arguments.training.device)
    best = _best_weights(arguments, start, console)
    changed, budget = {change.name for change in changes}, make_time_budget(arguments, start.checkpoint)
    current = Run(arguments, start, base, tokens, rows, memory, record, plan, budget, best, frozenset(changed))
    if not current.has_finished_training:
        check_optimizer_state(start, arguments)
    current.arguments = schedule_evaluations(arguments, current.steps, console.print)
    is_in_tokens = arguments.budget is not None and arguments.budget.schedule_in == "tokens"
    check_schedule(arguments.training, int(plan.tokens.sum()) if plan and is_in_tokens else current.steps)
    return current


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
    choose_micro_batch_size(current, model, console.print)
    return current, model


def _prepare(current: Run, model: PreTrainedModel, dataset: str, bars: Progress, signals: StopSignals) -> SlmTrainer:
    """Create the trainer and the run folder. All checks have been made: this may delete an earlier run."""
    trainer = make_trainer(current, model, signals, bars.console)
    # ProgressBar and MetricsLog below replace them.
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    tokens = int(current.plan.tokens.sum()) if current.plan else None
    log = MetricsLog(current.start.folder, current.time_budget)
    progress = ProgressBar(bars, tokens, current.time_budget)
    # The time budget first: the others read its seconds.
    for callback in (*([current.time_budget] if current.time_budget else []), log, progress):
        trainer.add_callback(callback)
    options = current.arguments.run
    if options.sample_every and options.prompt:
        folder, chat = current.start.folder, current.base.chat
        trainer.add_callback(Sampling(trainer, bars.console, folder, options.sample_every, options.prompt, chat))
    current.record |= opening_record(current, dataset, model)
    trainer.accelerator.wait_for_everyone()  # every process has inspected the folder before one writes to it
    if trainer.args.should_save:
        current.start.prepare_folder()
        write_run(current.start.folder, current.record)
    prepare_loggers(trainer, current.start.folder, current.start.step)
    trainer.accelerator.wait_for_everyone()
    return trainer


def _find_learning_rate(current: Run, trainer: SlmTrainer, console: Console) -> None:
    """Search for the learning rate if ``--find_learning_rate`` is given; a resumed run has its rate already."""
    train, resumed = current.rows.train, current.start.record
    if resumed:
        current.record |= {name: resumed[name] for name in ("learning_rate_search",) if name in resumed}
    elif current.arguments.run.find_learning_rate:
        assert isinstance(train, RowDataset)
        record_search(current, search_learning_rate(trainer, current.arguments, train, console.print))


def _evaluate_before(current: Run, trainer: SlmTrainer) -> None:
    """Evaluate the base model, unless the resumed run has recorded that."""
    if "before" not in current.record["evaluation"]:
        metrics = trainer.evaluate()
        check_evaluation(metrics, 0)
        record_evaluation(current, trainer, "before", metrics)


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
        current.record["checkpoints"] = trainer.checkpoint.summary(trainer.trained_seconds)
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    record_costs(current, costs, int(trainer.trained_tokens), trainer.finite_check.skipped)


def _stop(current: Run, console: Console, signals: StopSignals) -> int:
    assert signals.received is not None
    if current.arguments.training.should_save:
        write_run(current.start.folder, current.record | {"status": "stopped"})
    console.print(
        f"stopped by {signals.received.name}, saved in {current.start.folder}; continue with the same command and "
        "--resume_from_checkpoint"
    )
    return signals.exit_code


def _evaluate_and_save(current: Run, trainer: SlmTrainer, print_line: Callable[[str], None]) -> None:
    """Write weights and tokenizer, then the finished record: where run.json says finished, the weights exist."""
    metrics = trainer.evaluate_trained()
    check_evaluation(metrics, trainer.state.global_step)
    record_evaluation(current, trainer, "after", metrics)
    current.record["status"] = "finished"
    temporary = current.start.folder / ".weights.writing"
    trainer.save_model(str(temporary))  # the first process writes; with --fsdp all send it their parts
    if trainer.args.should_save:
        add_model_card(temporary, current.start.folder, current.record)
        move_files(temporary, current.start.folder)
        write_run(current.start.folder, current.record)
    upload_result(current.arguments.training, current.start.folder, print_line)


def _report(current: Run, console: Console) -> None:
    show_report(console, current.record)
    _print_lines(find_hints(current.record), console)
    show_next_commands(console, current.arguments, current.record, current.start.folder)


def _print_lines(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        console.print(line)
