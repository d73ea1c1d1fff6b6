"""Errors of the hub as one-sentence reasons."""

import errno

import pytest
from huggingface_hub import constants

from slm_data.errors import DataError
from slm_data.sources.hub.errors import HUB_ERROR_REASONS, as_data_error, hub_error_reason


def error_of_class(name: str, *bases: type[Exception]) -> Exception:
    return type(name, bases or (Exception,), {})("details\nof the library")


@pytest.mark.parametrize(
    ("name", "reason"), [(name, reason) for names, reason in HUB_ERROR_REASONS for name in sorted(names)]
)
def test_each_exception_class_has_its_reason_directly_and_as_a_cause(name: str, reason: str) -> None:
    expected = reason.format(endpoint=constants.ENDPOINT)
    assert hub_error_reason(error_of_class(name)) == expected
    outer = RuntimeError("wrapped")
    outer.__cause__ = error_of_class(name)
    assert hub_error_reason(outer) == expected


def test_a_gated_repository_is_not_reported_as_missing() -> None:
    missing = type(error_of_class("RepositoryNotFoundError"))
    assert "gated" in hub_error_reason(error_of_class("GatedRepoError", missing))


def test_an_http_status_is_reported_and_other_errors_by_their_first_line() -> None:
    error = error_of_class("HfHubHTTPError")
    assert hub_error_reason(error) == "details (HfHubHTTPError)"
    error.response = type("Response", (), {"status_code": 503})()  # type: ignore[attr-defined]
    assert hub_error_reason(error) == "the hub answers with status 503"


def test_a_full_disk_is_reported_with_remedies() -> None:
    with (
        pytest.raises(DataError, match=r"no space is left .* owner/name; .* HF_HOME .* --streaming"),
        as_data_error("owner/name"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_data_error_passes_unchanged() -> None:
    original = DataError("as it is")
    with pytest.raises(DataError) as caught, as_data_error("owner/name"):
        raise original
    assert caught.value is original
