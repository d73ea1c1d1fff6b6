"""Numbers of parameters that variants would train on the base of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slm_lab.compare.plan import plan_run
from slm_lab.compare.settings import ComparisonSettings
from slm_lab.errors import LabError
from slm_lab.variants import Variant

if TYPE_CHECKING:
    from slm_adapters import AdapterError
    from slm_train import Arguments


class TrainableCounter:
    """Counts what variants train, from the shapes of the base, without loading weights."""

    def __init__(self, settings: ComparisonSettings) -> None:
        from slm_train import trainable_parameter_counter

        self.settings = settings
        self._count_options = trainable_parameter_counter(self._arguments(settings.variants[0]))
        self._counts: dict[Variant, int | AdapterError] = {}

    def __call__(self, variant: Variant) -> int | None:
        """Return the number of parameters; None for options that do not fit the base."""
        count = self._look_up(variant)
        return count if isinstance(count, int) else None

    def require(self, variant: Variant) -> int:
        """Return the number of parameters. Raises LabError, with the reason, for options that do not fit the base."""
        count = self._look_up(variant)
        if not isinstance(count, int):
            raise LabError(f"{variant.label}: {count}")
        return count

    def _look_up(self, variant: Variant) -> int | AdapterError:
        from slm_adapters import AdapterError

        if variant not in self._counts:
            try:
                self._counts[variant] = self._count_options(self._arguments(variant).model)
            except AdapterError as error:
                self._counts[variant] = error
        return self._counts[variant]

    def _arguments(self, variant: Variant) -> Arguments:
        from slm_train import parse_arguments

        return parse_arguments(plan_run(self.settings, variant, self.settings.seeds[0]).argv)
