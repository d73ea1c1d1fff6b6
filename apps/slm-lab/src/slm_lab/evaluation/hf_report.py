"""``slm-lab eval --compare_hf``: the times of the engine and of lm-eval's ``hf`` model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from slm_lab.evaluation.harness.hf_comparison import TaskComparison


def print_comparisons(rows: Sequence[tuple[str, TaskComparison]], console: Console) -> None:
    """Print the comparisons, each with the name of the model."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("model", "task"):
        table.add_column(title, no_wrap=True)
    for title in ("engine", "hf", "hf batch", "speed-up", "difference"):
        table.add_column(title, justify="right")
    for name, each in rows:
        times = f"{each.seconds:.2f} s", f"{each.hf_seconds:.2f} s"
        table.add_row(name, each.task, *times, str(each.batch_size), f"{each.speed_up:.2f}x", f"{each.difference:.1e}")
    console.print(table)
    console.print(
        "medians of 3 interleaved pairs, each with empty caches; hf with the fastest of the batch sizes 1, 8 and 32; "
        "difference: the largest of a score, relative above 1",
        style="dim",
    )
