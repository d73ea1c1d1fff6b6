"""Checks before anything is trained: which modes can run here, and whether slm-train accepts their command lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from slm_lab.compare.command_lines import split_flags
from slm_lab.compare.plan import PlannedRun
from slm_lab.errors import LabError


def unavailable_reason(mode: str, passed_on: Sequence[str]) -> str | None:
    """Return why ``mode`` cannot run on this machine; None if it can."""
    uses_four_bit = mode == "qlora" or (mode != "baseline" and "load_in_4bit" in dict(split_flags(passed_on)))
    if uses_four_bit and find_spec("bitsandbytes") is None:
        return "it needs bitsandbytes, which is not installed (there are wheels for Linux, Windows and Apple silicon)"
    return None


def check_command_lines(runs: Sequence[PlannedRun]) -> None:
    """Let slm-train parse the command line of each variant.

    Raises:
        LabError: For a command line that slm-train would refuse.
    """
    from slm_train import read_flags

    # Seeds differ in nothing that could be refused.
    one_per_variant = {run.variant: run.argv for run in runs}
    with explain_train_errors():
        for argv in one_per_variant.values():
            read_flags(argv)  # names only, without torch: a typo is reported at once
        from slm_train import parse_arguments

        for argv in one_per_variant.values():
            parse_arguments(argv)


@contextmanager
def explain_train_errors() -> Iterator[None]:
    """Turn what slm-train refuses into a LabError."""
    from slm_adapters import AdapterError
    from slm_data import DataError
    from slm_train import TrainError

    try:
        yield
    except (AdapterError, DataError, TrainError) as error:
        raise LabError(str(error)) from error
