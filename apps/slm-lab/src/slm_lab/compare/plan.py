"""The runs of a comparison: a folder and an slm-train command line for each mode and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slm_lab.compare.command_lines import flag_values, split_flags
from slm_lab.compare.settings import EVALUATIONS, Budget, ComparisonSettings
from slm_lab.modes import MODES_WITH_FLAG
from slm_lab.variants import Variant

TOKENS_PER_STEP = 2048  # with a budget of tokens, unless --target_tokens_per_step is passed on
SAMPLE = "sample"


@dataclass(frozen=True)
class PlannedRun:
    """A run of slm-train. ``argv`` holds the words after the program's name."""

    variant: Variant
    seed: int
    folder: Path
    argv: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name


def plan_runs(settings: ComparisonSettings) -> list[PlannedRun]:
    """Plan all variants with the first seed, then with the next: an interrupted comparison has all variants early."""
    return [plan_run(settings, variant, seed) for seed in settings.seeds for variant in settings.variants]


def plan_run(settings: ComparisonSettings, variant: Variant, seed: int) -> PlannedRun:
    """Plan one run."""
    # The first seed has no suffix, so that runs of one seed are reused when more seeds are asked for later.
    suffix = "" if seed == settings.seeds[0] else f"-seed{seed}"
    folder = settings.output_dir / f"{variant.folder}{suffix}"
    flags = split_flags(settings.passed_on)
    mode = variant.mode
    accepted = [word for name, words in flags if mode in MODES_WITH_FLAG.get(name, {mode}) for word in words]
    options = [word for name, value in variant.flags.items() for word in (f"--{name}", value)]
    identity = ["--mode", mode, *options, "--seed", str(seed), "--output_dir", str(folder)]
    # Without --dataset, slm-train uses the built-in sample with limits and learning rates for a short run. With
    # --dataset sample it would use those for a long one.
    source = ["--dataset", settings.dataset] if settings.dataset not in (None, SAMPLE) else []
    budget = _budget_words(settings.budget, flag_values(flags))
    return PlannedRun(variant, seed, folder, (*budget, *source, *identity, *accepted))


def _budget_words(budget: Budget, passed_on: Mapping[str, str]) -> list[str]:
    """Return the flags for the budget, evaluations and checkpoints, except for those that the user has passed."""
    if budget.kind == "tokens":
        return _token_budget_words(budget, passed_on)
    # slm-train reads --eval_steps and --save_steps below 1 as shares of the training.
    interval = math.ceil(budget.amount / EVALUATIONS) if budget.kind == "steps" else 1 / EVALUATIONS
    # One checkpoint suffices to resume, and keeps a comparison of many runs small on disk.
    saving = {} if "save_strategy" in passed_on else {"save_steps": interval, "save_total_limit": 1}
    flags = {f"max_{budget.kind}": budget.amount, "eval_steps": interval} | saving
    return [*_flag_words(flags, passed_on), "--eval_strategy", "steps"]


def _token_budget_words(budget: Budget, passed_on: Mapping[str, str]) -> list[str]:
    tokens_per_step = int(passed_on.get("target_tokens_per_step") or min(budget.amount, TOKENS_PER_STEP))
    steps = max(1, round(budget.amount / tokens_per_step))
    interval = math.ceil(steps / EVALUATIONS)
    flags = {
        "max_steps": steps,
        "eval_interval": interval,
        "log_interval": interval,
        "target_tokens_per_step": tokens_per_step,
        "checkpoint_interval": interval,
    }
    return ["dynamic", *_flag_words(flags, passed_on)]


def _flag_words(flags: Mapping[str, float], passed_on: Mapping[str, str]) -> list[str]:
    return [word for name, value in flags.items() if name not in passed_on for word in (f"--{name}", f"{value:.10g}")]
