"""Runs side by side: which belong together, under which budget, and what keeps them from being compared. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from slm_lab.figures import Mode, Outcome
from slm_lab.runs import Moment, Run

Axis = Literal["steps", "tokens", "seconds"]


@dataclass(frozen=True)
class Comparison:
    """``left_out``: names of runs that are not in it, with the reason."""

    modes: tuple[Mode, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], left_out: Mapping[str, str]) -> Comparison:
        """Group runs that differ by their seed alone: their folders' names do, too."""
        groups: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            groups.setdefault(re.sub(r"-seed\d+$", "", outcome.run.name), []).append(outcome)
        return cls(tuple(Mode.of(name, members) for name, members in groups.items()), left_out)

    @property
    def runs(self) -> list[Run]:
        return [outcome.run for mode in self.modes for outcome in mode.outcomes]

    @property
    def seeds(self) -> int:
        """Runs of the mode that has fewest."""
        return min((len(mode.outcomes) for mode in self.modes), default=0)

    @property
    def axis(self) -> Axis:
        """What the budget of all runs counts; steps where they have different ones."""
        axes = {_axis(run) for run in self.runs}
        return axes.pop() if len(axes) == 1 else "steps"

    @property
    def budget(self) -> str:
        """In words; empty where runs have different ones."""
        budgets = {_budget(run) for run in self.runs}
        return budgets.pop() if len(budgets) == 1 else ""

    @property
    def caveats(self) -> list[str]:
        """Why figures of these runs say less than they seem to, one sentence each."""
        return [sentence for differ, sentence in CAVEATS if len({differ(run) for run in self.runs}) > 1]

    def at(self, moment: Moment) -> float | None:
        """Where a point of a learning curve lies on the axis."""
        return {"steps": float(moment.step), "tokens": moment.tokens, "seconds": moment.seconds}[self.axis]


def _axis(run: Run) -> Axis:
    if run.flow == "dynamic":
        return "tokens"
    return "seconds" if run.arguments.get("max_minutes") is not None else "steps"


def _budget(run: Run) -> str:
    arguments = run.arguments
    if run.flow == "dynamic":
        return f"{run.tokens or 0:,.0f} predicted tokens"
    if (minutes := arguments.get("max_minutes")) is not None:
        return f"{minutes:g} minutes of training" if minutes != 1 else "a minute of training"
    steps = arguments.get("max_steps", -1)
    return f"{steps:,} optimizer steps" if steps > 0 else f"{arguments.get('num_train_epochs', 1):g} epochs"


CAVEATS: tuple[tuple[Callable[[Run], object], str], ...] = (
    (lambda run: run.base, "The runs have different bases: their quality before training differs too."),
    (
        lambda run: run.validation or run.dataset,
        "The runs were evaluated on different texts: compare what each gained, not where it ended.",
    ),
    (
        lambda run: run.block_size,
        "The runs were evaluated in rows of different lengths: longer ones lower perplexity and bits per byte.",
    ),
    (_budget, "The runs had different budgets: one that trained longer is not better for it."),
    (
        lambda run: (run.device, run.machine.get("processor"), run.machine.get("cores"), run.threads),
        "The runs had different devices or thread counts: their speed and peak memory cannot be compared.",
    ),
)
