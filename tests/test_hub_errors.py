"""slm-data and slm-adapters report errors of the hub in the same words, although neither imports the other."""

from __future__ import annotations

import pytest

from slm_adapters import HUB_REASONS, hub_error_reason
from slm_data import HUB_ERROR_REASONS

DATASETS_ONLY = {"DataFilesNotFoundError", "EmptyDatasetError"}


def by_class_name(reasons: tuple[tuple[set[str], str], ...]) -> dict[str, str]:
    return {name: reason for names, reason in reasons for name in names}


def test_both_give_the_same_reason_for_the_same_exception() -> None:
    data_reasons = by_class_name(HUB_ERROR_REASONS)
    adapter_reasons = by_class_name(HUB_REASONS)
    assert {name: reason for name, reason in data_reasons.items() if name not in DATASETS_ONLY} == adapter_reasons


@pytest.mark.parametrize("name", sorted(by_class_name(HUB_REASONS)))
def test_slm_adapters_recognizes_an_exception_by_its_class_and_as_a_cause(name: str) -> None:
    error_class = type(name, (Exception,), {})
    outer = RuntimeError("wrapped")
    outer.__cause__ = error_class("details")
    assert hub_error_reason(error_class("details")) == hub_error_reason(outer) != "details"
