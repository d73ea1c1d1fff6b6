"""``--max_tokens_per_micro_batch auto``: micro-batches as large as the memory that is free allows, by an estimate.

The estimate is that of ``--dry_run``: bytes of live tensors in a step without contents, for any model. It grows with
the number of rows, so two numbers give the largest one that fits; that one is estimated as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from accelerate.utils import gather_object
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from slm_data import RowDataset
from slm_train.arguments import Arguments
from slm_train.command_line.evaluation_batch import limit_evaluation_batch
from slm_train.data.budget_plan import make_plan
from slm_train.errors import TrainError
from slm_train.hardware.memory_usage import free_memory
from slm_train.losses.fused_loss import loss_context
from slm_train.reports.final_report import megabytes
from slm_train.reports.memory_estimate import activation_bytes, fragmentation_share, optimizer_bytes
from slm_train.training_run import Run

# Of the free memory. On a GPU, kernels need workspace and the allocator rounds up; a CPU's memory is shared with other
# processes and with files that are read.
SHARE_OF_GPU, SHARE_OF_CPU = 0.8, 0.5
_FIRST_ROWS, _SECOND_ROWS = 1, 3


@dataclass(frozen=True)
class MicroBatchSize:
    """A chosen size: tokens of a micro-batch, and the bytes that its step is estimated to need and that are free."""

    tokens: int
    estimated: int
    free: int


def choose_micro_batch_size(current: Run, model: Any, print_line: Callable[[str], None]) -> None:
    """Set the size of micro-batches, if it is to be chosen, and plan the run with it.

    Must be called with the model on its device. All processes choose the same size. A resumed run has its size already
    (``size_of_resumed_run``).

    Raises TrainError where the estimate cannot be made.
    """
    arguments, train = current.arguments, current.rows.train
    if not (arguments.budget and arguments.budget.has_automatic_size):
        return
    if is_deepspeed_zero3_enabled():
        raise TrainError("--max_tokens_per_micro_batch auto needs whole weights; give a number with DeepSpeed ZeRO-3")
    assert isinstance(train, RowDataset)
    size = estimate_size(arguments, model, train, free_memory(arguments.training.device))
    tokens = min(gather_object([size.tokens]))
    current.arguments = with_micro_batch_size(arguments, tokens)
    print_line(
        f"micro-batches of at most {tokens:,} tokens: a step is estimated to take {megabytes(size.estimated)} more, of "
        f"{megabytes(size.free)} that are free (--max_tokens_per_micro_batch auto)"
    )
    current.plan = make_plan(current.arguments, current.base, current.rows, print_line)
    current.record["identity"]["settings"]["max_tokens_per_micro_batch"] = tokens
    current.record["micro_batch"] = {"tokens": tokens, "estimated": size.estimated, "free": size.free}


def size_of_resumed_run(arguments: Arguments, identity: dict[str, Any] | None) -> Arguments:
    """Return the options with the size that the resumed run chose when it started."""
    size = (identity or {}).get("settings", {}).get("max_tokens_per_micro_batch")
    is_chosen = arguments.budget is not None and arguments.budget.has_automatic_size and isinstance(size, int)
    return with_micro_batch_size(arguments, size) if is_chosen else arguments


def with_micro_batch_size(arguments: Arguments, tokens: int) -> Arguments:
    """Return the options with ``--max_tokens_per_micro_batch`` of ``tokens``, and evaluation batches that fit it."""
    assert arguments.budget
    budget = replace(arguments.budget, max_tokens_per_micro_batch=tokens)
    limit_evaluation_batch(arguments.training, arguments.rows, budget, arguments.explicit_flags)
    return replace(arguments, budget=budget)


def estimate_size(arguments: Arguments, model: Any, train: RowDataset, free: int) -> MicroBatchSize:
    """Return the largest size that fits in a part of ``free`` bytes: at least one row, at most the rows of a step.

    All rows count as the longest ones. Optimizer state must not exist yet.
    """
    training, budget = arguments.training, arguments.budget
    assert budget
    multiple = budget.length_multiple(training.torch_compile)
    longest = -(-int(train.plan.row_lengths.max()) // multiple) * multiple
    share = SHARE_OF_GPU if training.device.type == "cuda" else SHARE_OF_CPU
    context = loss_context(model, training, arguments.run.fused_loss)

    def needed(rows: int) -> int:
        with context():
            activations = activation_bytes(model, arguments, (rows, longest), is_packed=train.packing == "best_fit")
        return optimizer_bytes(arguments, model) + int(activations * (1 + fragmentation_share(training)))

    # More rows than those of a step are never in one micro-batch.
    most = arguments.max_micro_batch_rows or -(-budget.target_tokens_per_step // max(1, longest - 1))
    rows = min(most, _fitting_rows(needed(_FIRST_ROWS), needed(_SECOND_ROWS), share * free))
    while (estimated := needed(rows)) > share * free and rows > 1:
        rows = max(1, int(rows * min(0.9, share * free / estimated)))
    model.train()  # drops what layers have computed without contents
    return MicroBatchSize(rows * longest, estimated, free)


def _fitting_rows(first: int, second: int, limit: float) -> int:
    """Return the largest number of rows whose bytes are within ``limit``, on the line through two measurements."""
    slope = max(1.0, (second - first) / (_SECOND_ROWS - _FIRST_ROWS))
    return max(1, int(_FIRST_ROWS + (limit - first) / slope))
