"""The trainer of a run: that of the token-budget loop, or that of Hugging Face's Trainer."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from transformers import PreTrainedModel

from slm_train.checkpoints.step_checkpoint import StepCheckpoint
from slm_train.loop.budget_trainer import BudgetTrainer
from slm_train.loop.stop_signals import StopSignals
from slm_train.loop.trainer import SlmTrainer
from slm_train.training_run import Run


def make_trainer(current: Run, model: PreTrainedModel, signals: StopSignals, console: Console) -> SlmTrainer:
    """Return the trainer of the flow of ``current``."""
    arguments = current.arguments
    settings: dict[str, Any] = {
        "model": model,
        "args": arguments.training,
        "rows": current.rows.train,
        "eval_rows": current.rows.evaluated,
        "processing_class": current.base.tokenizer,
        "muon": arguments.run.muon,
        "fused_loss": arguments.run.fused_loss,
        "best": current.best,
        "identity": current.record["identity"],
        "changed": current.changed,
        "callbacks": [signals],
    }
    if not current.plan:
        return SlmTrainer(**settings)
    budget = arguments.budget
    assert budget
    is_automatic, identity = budget.steps_between_checkpoints is None, current.record["identity"]
    return BudgetTrainer(
        plan=current.plan,
        budget=budget,
        checkpoint=StepCheckpoint(current.start.folder, identity, console.print, is_automatic=is_automatic),
        state=current.start.state,
        print_line=console.print,
        **settings,
    )
