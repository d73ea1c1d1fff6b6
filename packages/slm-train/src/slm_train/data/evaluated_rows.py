"""The validation rows that are evaluated (``--max_eval_tokens``): always the same ones, spread over the whole split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from slm_data import RowDataset, select_rows
from slm_train.arguments import Arguments
from slm_train.errors import TrainError


def choose_evaluated(rows: RowDataset, max_tokens: int, print_line: Callable[[str], None]) -> RowDataset:
    """Return evenly spaced rows with about ``max_tokens`` tokens, at least one row; all of them with 0.

    Packed rows are ordered by the lengths of their documents, so the first ones would not be representative. Rows that
    are padded are sorted by length, which saves padding. A sum of losses does not depend on the order.
    """
    plan = rows.plan
    count = len(plan)
    if 0 < max_tokens < plan.tokens:
        count = max(1, min(count, round(count * max_tokens / plan.tokens)))
    chosen = (np.arange(count) * 2 + 1) * len(plan) // (2 * count)
    if plan.packing == "none":
        chosen = chosen[np.argsort(-plan.row_lengths[chosen], kind="stable")]
    evaluated = RowDataset(rows.store, select_rows(plan, chosen))
    if count < len(plan):
        print_line(f"evaluating on {evaluated.plan.tokens:,} of {plan.tokens:,} tokens (--max_eval_tokens)")
    return evaluated


def evaluated_rows_of_resumed_run(
    arguments: Arguments, record: dict[str, Any] | None, print_line: Callable[[str], None]
) -> Arguments:
    """Return the options with the ``--max_eval_tokens`` of the resumed run, whose evaluation before training is kept.

    Raises TrainError if the user asks for another number: the figures before and after would be of different texts.
    """
    if record is None:
        return arguments
    # Runs before this flag existed evaluated all rows.
    recorded = int(record.get("arguments", {}).get("max_eval_tokens", 0))
    requested = arguments.rows.max_eval_tokens
    if recorded == requested:
        return arguments
    if "max_eval_tokens" in arguments.explicit_flags:
        raise TrainError(
            f"--max_eval_tokens {requested}: the run was evaluated with {recorded} before training, and the figures "
            f"after would be of other texts; give {recorded}, or another --output_dir"
        )
    print_line(f"evaluating with --max_eval_tokens {recorded}, as before training")
    return replace(arguments, rows=replace(arguments.rows, max_eval_tokens=recorded))
