"""Settings of a comparison: modes, budget, seeds, and the flags that go to slm-train."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slm_lab.compare.command_lines import split_flags
from slm_lab.errors import LabError
from slm_lab.variants import Variant

EVALUATIONS = 8  # during training: the points of a learning curve

BudgetKind = Literal["steps", "tokens", "minutes"]
BUDGET_KINDS: tuple[BudgetKind, ...] = ("steps", "tokens", "minutes")

_EVALUATES = f"every run is evaluated at {EVALUATIONS} evenly spaced points; remove it"
# Flags of slm-train that the comparison sets itself, with the remedy.
RESERVED_FLAGS = {
    "mode": "use --modes",
    "num_train_epochs": "use --max_steps, --max_tokens or --max_minutes",
    "eval_strategy": _EVALUATES,
    "evaluation_strategy": _EVALUATES,
    "eval_steps": _EVALUATES,
    "eval_interval": _EVALUATES,
    "log_interval": _EVALUATES,
    "resume_from_checkpoint": "interrupted runs are always resumed; remove it",
    "overwrite_output_dir": "use --again to train again",
    "show_rows": "use slm-train --show_rows",
    "dry_run": "use slm-train --dry_run for one mode",
}


@dataclass(frozen=True)
class Budget:
    """The budget of each mode: optimizer steps, predicted tokens, or minutes of training."""

    kind: BudgetKind
    amount: float


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of a comparison. ``passed_on`` holds the words of the command line that go to slm-train.

    Raises:
        LabError: If they contain a flag that the comparison or one of its variants sets.
    """

    variants: tuple[Variant, ...]
    budget: Budget
    seeds: tuple[int, ...]
    output_dir: Path
    dataset: str | None = None
    passed_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, _ in split_flags(self.passed_on):
            if name in RESERVED_FLAGS:
                raise LabError(f"--{name} is set by the comparison: {RESERVED_FLAGS[name]}")
            if setting := next((variant for variant in self.variants if name in variant.flags), None):
                raise LabError(f"--{name} is set by the variant {setting.label}; remove one of them")

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> ComparisonSettings:
        """Make settings from the arguments of ``slm-lab compare``."""
        amounts = {kind: getattr(arguments, f"max_{kind}") for kind in BUDGET_KINDS}
        kind = next(kind for kind in BUDGET_KINDS if amounts[kind] is not None)
        return cls(
            variants=arguments.modes,
            budget=Budget(kind, amounts[kind]),
            seeds=tuple(range(arguments.seed, arguments.seed + arguments.seeds)),
            output_dir=arguments.output_dir,
            dataset=arguments.dataset,
            passed_on=arguments.passed_on,
        )
