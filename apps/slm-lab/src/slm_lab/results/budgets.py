"""The training budget of a run, in words, and the unit that it counts."""

from __future__ import annotations

from typing import Literal

from slm_lab.runs.record import Run

BudgetAxis = Literal["steps", "tokens", "seconds"]


def budget_axis(run: Run) -> BudgetAxis:
    """Return the unit that the budget of ``run`` counts: the x axis of its learning curve."""
    if run.flow == "dynamic":
        return "tokens"
    return "seconds" if run.arguments.get("max_minutes") is not None else "steps"


def describe_budget(run: Run) -> str:
    """Return the budget of ``run`` in words, such as ``200 optimizer steps``."""
    arguments = run.arguments
    if run.flow == "dynamic":
        return f"{run.tokens or 0:,.0f} predicted tokens"
    if (minutes := arguments.get("max_minutes")) is not None:
        return f"{minutes:g} minutes of training" if minutes != 1 else "1 minute of training"
    steps = arguments.get("max_steps", -1)
    return f"{steps:,} optimizer steps" if steps > 0 else f"{arguments.get('num_train_epochs', 1):g} epochs"
