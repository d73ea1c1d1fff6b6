"""``Comparison``: finished runs grouped by mode, and the runs that are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slm_lab.results.budgets import BudgetAxis, budget_axis, describe_budget
from slm_lab.results.caveats import find_caveats
from slm_lab.results.mode_results import ModeResults
from slm_lab.results.run_result import RunResult
from slm_lab.runs.learning_curve import CurvePoint
from slm_lab.runs.record import Run


@dataclass(frozen=True)
class Comparison:
    """Modes with their results. ``left_out`` maps the names of other runs to the reason."""

    modes: tuple[ModeResults, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_results(cls, results: Sequence[RunResult], left_out: Mapping[str, str]) -> Comparison:
        """Group the runs that differ by seed alone."""
        groups: dict[str, list[RunResult]] = {}
        for result in results:
            # `slm-lab compare` names the folders of further seeds MODE-seedN.
            groups.setdefault(re.sub(r"-seed\d+$", "", result.run.name), []).append(result)
        modes = (ModeResults.from_results(name, members) for name, members in groups.items())
        return cls(tuple(modes), left_out)

    @property
    def runs(self) -> list[Run]:
        return [result.run for mode in self.modes for result in mode.results]

    @property
    def seed_count(self) -> int:
        """The number of runs of the mode with the fewest."""
        return min((len(mode.results) for mode in self.modes), default=0)

    @property
    def axis(self) -> BudgetAxis:
        """The unit of all budgets; steps if they differ."""
        axes = {budget_axis(run) for run in self.runs}
        return axes.pop() if len(axes) == 1 else "steps"

    @property
    def budget(self) -> str:
        """The budget in words; empty if the runs have different ones."""
        budgets = {describe_budget(run) for run in self.runs}
        return budgets.pop() if len(budgets) == 1 else ""

    @property
    def caveats(self) -> list[str]:
        """Why the figures are not fully comparable, one sentence each."""
        return find_caveats(self.runs)

    def axis_value(self, point: CurvePoint) -> float | None:
        """Return the position of a point of a learning curve on the axis; None if the log does not contain it."""
        return {"steps": float(point.step), "tokens": point.tokens, "seconds": point.seconds}[self.axis]
