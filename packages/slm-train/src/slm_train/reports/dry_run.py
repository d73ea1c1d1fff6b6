"""``--dry_run``: the size of a run, with estimates of memory and disk use."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from slm_train.arguments import Arguments
from slm_train.hardware.memory_usage import MemoryUsage
from slm_train.reports.final_report import megabytes
from slm_train.reports.memory_estimate import MemoryEstimate, estimate_memory
from slm_train.reports.run_summary import print_summary, time_model
from slm_train.training_run import Run

_LABELS = {
    "process": "process, before the model",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations and gradients, at the peak of a step",
    "evaluation": "the same for a batch of the evaluation",
    "fragmentation": "held by the allocator, unused",
}


def show_dry_run(console: Console, current: Run) -> None:
    """Print size, duration, memory and disk use of a run. Trains nothing; writes only the token cache."""
    arguments, base, rows, steps = current.arguments, current.base, current.rows, current.steps
    estimate, model = estimate_memory(arguments, base, rows)
    print_summary(console, current, time_model(current, model))
    table = Table(title=f"dry run: {arguments.model.mode} on {base.name or 'a new model'}", title_justify="left")
    table.add_column("")
    table.add_column("estimate", justify="right")
    _add_size_of_run(table, arguments, estimate, steps)
    for name, label in _LABELS.items():
        table.add_row(label, megabytes(getattr(estimate, name)))
    memory = MemoryUsage(arguments.training.device)
    table.add_row(f"peak {memory.kind}", megabytes(estimate.peak), style="bold", end_section=True)
    # One more than are kept: the new checkpoint is complete before the oldest is deleted.
    checkpoints = 2 if arguments.budget else (arguments.training.save_total_limit or 1) + 1
    table.add_row(f"disk: up to {checkpoints} checkpoints", megabytes(checkpoints * estimate.checkpoint))
    # The trained weights have the size of their gradients.
    table.add_row("disk: final weights", megabytes(estimate.gradients))
    console.print(table)
    console.print(
        "At the peak of a step, activations and the gradients computed so far are in memory. Nothing was trained."
    )
    if rows.train.packing == "best_fit":
        console.print("The packing is verified when the model is loaded for training, and may become none.")


def _add_size_of_run(table: Table, arguments: Arguments, estimate: MemoryEstimate, steps: int) -> None:
    training, minutes = arguments.training, arguments.run.max_minutes
    table.add_row("optimizer steps", f"{steps:,}" if minutes is None else f"as many as {minutes:g} minutes allow")
    if arguments.budget:
        table.add_row("tokens per step", f"{arguments.budget.target_tokens_per_step:,}")
    else:
        table.add_row("rows per step", f"{training.train_batch_size * training.gradient_accumulation_steps:,}")
    parameters = estimate.parameters
    table.add_row("trainable parameters", f"{parameters.trainable:,} ({parameters.percent_trainable:.2f} %)")
    table.add_row("all parameters", f"{parameters.total:,}", end_section=True)
