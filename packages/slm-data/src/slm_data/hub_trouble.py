"""Trouble with the model hub, said in one sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

from slm_data.errors import DataError

# By the names of exceptions, not the classes: the HTTP library below differs between versions.
REASONS: tuple[tuple[set[str], str], ...] = (
    ({"OfflineModeIsEnabled"}, "offline mode is on (HF_HUB_OFFLINE)"),
    ({"GatedRepoError"}, "it is gated (ask for access on its page, then log in by 'hf auth login')"),
    (
        {"RepositoryNotFoundError"},
        "nothing of that name is there (or it needs a login: 'hf auth login')",
    ),
    ({"DataFilesNotFoundError", "EmptyDatasetError"}, "it has no data files of a readable kind"),
    (
        {"RemoteProtocolError", "ReadError", "ChunkedEncodingError", "ClientPayloadError"},
        "the connection broke off",
    ),
    ({"TimeoutException", "TimeoutError", "Timeout"}, "the hub did not answer in time"),
    ({"ConnectError", "ConnectionError"}, "the hub at {endpoint} cannot be reached"),
)


@contextmanager
def as_data_error(name: str, trouble: Exception | None = None) -> Iterator[None]:
    """Hub trouble comes as a dozen unrelated exceptions; all of them mean that ``name`` cannot be
    read. With ``trouble``, why the hub is out of reach, only the cache was looked at."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(_sentence(name, error, trouble)) from error


def _sentence(name: str, error: Exception, trouble: Exception | None) -> str:
    if _is_disk_full(error):
        return (
            f"no space is left on the disk for the dataset {name}; free some, set HF_HOME to a folder "
            "on a larger disk, or read it without a copy by --streaming"
        )
    why = f"{reason(trouble)}, and the cache holds no copy" if trouble else reason(error)
    cached = "" if trouble else "a copy loaded before (HF_HUB_OFFLINE=1), "
    return (
        f"cannot load the dataset {name} from the hub: {why}; check the name, try again later, "
        f"or use {cached}files of your own (--train_file) or --dataset sample"
    )


def reason(error: Exception) -> str:
    """Why the hub cannot be used, in a few words."""
    causes = list(_causes(error))
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    for names, sentence in REASONS:
        if names & kinds:
            return sentence.format(endpoint=constants.ENDPOINT)
    for cause in causes:
        if status := getattr(getattr(cause, "response", None), "status_code", None):
            return f"the hub answers with status {status}"
    return f"{str(error).strip().partition(chr(10))[0]} ({type(error).__name__})"


def _is_disk_full(error: Exception) -> bool:
    return any(
        getattr(cause, "errno", None) == errno.ENOSPC or "Not enough disk space" in str(cause)
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
