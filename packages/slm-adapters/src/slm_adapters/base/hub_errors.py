"""Conversion of errors of the hub and of loading libraries to AdapterError, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, constants

from slm_adapters.errors import AdapterError

TIMEOUT = 10.0  # seconds for the first answer of the hub

# Exceptions are matched by class name, because huggingface_hub's HTTP library differs between versions (requests, later
# httpx). slm_data has the same sentences in HUB_ERROR_REASONS.
HUB_REASONS: tuple[tuple[set[str], str], ...] = (
    ({"OfflineModeIsEnabled"}, "offline mode is on (HF_HUB_OFFLINE)"),
    ({"GatedRepoError"}, "it is gated (request access on its page, then log in with 'hf auth login')"),
    (
        {"RepositoryNotFoundError"},
        "no repository of that name exists on the hub (or it needs a login: 'hf auth login')",
    ),
    ({"RevisionNotFoundError"}, "the hub has it, but not the requested revision"),
    (
        {"RemoteProtocolError", "ReadError", "ChunkedEncodingError", "ClientPayloadError"},
        "the connection to the hub was interrupted",
    ),
    ({"TimeoutException", "TimeoutError", "Timeout"}, "the hub did not answer in time"),
    ({"ConnectError", "ConnectionError"}, "the hub at {endpoint} cannot be reached"),
)


def probe_hub(repo: str) -> Exception | None:
    """Return why the hub does not serve ``repo``, or None if it does.

    It makes one short request. Without it, transformers retries for most of a minute before it looks in the cache.
    """
    try:
        HfApi().model_info(repo, timeout=TIMEOUT, expand=["sha"])
    except Exception as error:  # whatever it is, the cache may still have a copy
        return error
    return None


@contextmanager
def as_adapter_error(subject: str, remedy: str, hub_error: Exception | None = None) -> Iterator[None]:
    """Turn any exception into ``AdapterError("cannot load SUBJECT: reason; REMEDY")``, except an AdapterError.

    ``hub_error`` is the result of ``probe_hub``: if the hub did not serve the repository, only the cache was searched,
    and that error is the reason.
    """
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:
        reason = hub_error_reason(error)
        if hub_error:
            reason = f"{hub_error_reason(hub_error)}, and the cache holds no copy"
        raise AdapterError(f"cannot load {subject}: {reason}; {remedy}") from error


def hub_error_reason(error: Exception) -> str:
    """Return the reason in a few words: the hub's if ``error`` comes from it, else the first sentence of ``error``."""
    causes = list(_causes(error))
    class_names = {parent.__name__ for cause in causes for parent in type(cause).__mro__}
    for names, reason in HUB_REASONS:
        if names & class_names:
            return reason.format(endpoint=constants.ENDPOINT)
    if status := hub_status(error):
        return f"the hub answers with status {status}"
    return _first_sentence(str(error)) or type(error).__name__


def hub_status(error: Exception) -> int | None:
    """Return the HTTP status that the hub answered with, if ``error`` or one of its causes has one."""
    statuses = (getattr(getattr(cause, "response", None), "status_code", None) for cause in _causes(error))
    return next((status for status in statuses if status), None)


def _first_sentence(text: str) -> str:
    """Return the first sentence of a message, without a first line that ends in a colon and introduces the next."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[1] if len(lines) > 1 and lines[0].endswith(":") else "".join(lines[:1])
    return first.partition(". ")[0].rstrip(".")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield ``error`` and what it was raised from, as a traceback would show them."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
