"""Errors of the model hub as one-sentence DataErrors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

from slm_data.errors import DataError

# Exceptions are matched by class name, because huggingface_hub uses requests or httpx, depending on its version. The
# first entry that matches any class in the chain of causes applies; GatedRepoError, a subclass of
# RepositoryNotFoundError, therefore comes before it. slm_adapters.HUB_REASONS contains the same sentences.
HUB_ERROR_REASONS: tuple[tuple[set[str], str], ...] = (
    ({"OfflineModeIsEnabled"}, "offline mode is on (HF_HUB_OFFLINE)"),
    ({"GatedRepoError"}, "it is gated (request access on its page, then log in with 'hf auth login')"),
    (
        {"RepositoryNotFoundError"},
        "no repository of that name exists on the hub (or it needs a login: 'hf auth login')",
    ),
    ({"RevisionNotFoundError"}, "the hub has it, but not the requested revision"),
    ({"DataFilesNotFoundError", "EmptyDatasetError"}, "it contains no data files in a supported format"),
    (
        {"RemoteProtocolError", "ReadError", "ChunkedEncodingError", "ClientPayloadError"},
        "the connection to the hub was interrupted",
    ),
    ({"TimeoutException", "TimeoutError", "Timeout"}, "the hub did not answer in time"),
    ({"ConnectError", "ConnectionError"}, "the hub at {endpoint} cannot be reached"),
)


@contextmanager
def as_data_error(name: str, probe_error: Exception | None = None) -> Iterator[None]:
    """Turn any exception raised while loading the dataset ``name`` into a DataError; a DataError passes.

    The hub's client and the datasets library raise many unrelated exception classes.

    Args:
        name: The dataset, for the message.
        probe_error: Why the hub could not be used, if only the cache was tried.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(_message(name, error, probe_error)) from error


def hub_error_reason(error: Exception) -> str:
    """Return why the hub cannot be used, as a clause for a message."""
    causes = list(_causes(error))
    class_names = {cls.__name__ for cause in causes for cls in type(cause).__mro__}
    for names, reason in HUB_ERROR_REASONS:
        if names & class_names:
            return reason.format(endpoint=constants.ENDPOINT)
    for cause in causes:
        if status := getattr(getattr(cause, "response", None), "status_code", None):
            return f"the hub answers with status {status}"
    first_line = str(error).strip().partition("\n")[0]
    return f"{first_line} ({type(error).__name__})"


def _message(name: str, error: Exception, probe_error: Exception | None) -> str:
    if _is_disk_full(error):
        return (
            f"no space is left on the disk for the dataset {name}; free some, set HF_HOME to a folder "
            "on a larger disk, or use --streaming to read it without a copy"
        )
    if probe_error:
        reason, cached = f"{hub_error_reason(probe_error)}, and the cache contains no copy", ""
    else:
        reason, cached = hub_error_reason(error), "an earlier download (HF_HUB_OFFLINE=1), "
    return (
        f"cannot load the dataset {name} from the hub: {reason}; check the name, try again later, "
        f"or use {cached}own files (--train_file) or --dataset sample"
    )


def _is_disk_full(error: Exception) -> bool:
    return any(
        getattr(cause, "errno", None) == errno.ENOSPC or "Not enough disk space" in str(cause)
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
