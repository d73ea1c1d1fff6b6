"""What the libraries raise while something is loaded, said in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, constants

from slm_adapters.errors import AdapterError

TIMEOUT = 10.0  # seconds for the first answer of the hub

# By the names of exceptions, not the classes: the HTTP library below differs between versions.
HUB_REASONS: tuple[tuple[set[str], str], ...] = (
    ({"OfflineModeIsEnabled"}, "offline mode is on (HF_HUB_OFFLINE)"),
    ({"GatedRepoError"}, "it is gated (ask for access on its page, then log in by 'hf auth login')"),
    ({"RepositoryNotFoundError"}, "nothing of that name is on the hub (or it needs a login: 'hf auth login')"),
    ({"RevisionNotFoundError"}, "the hub has it, but not the revision that is asked for"),
    ({"RemoteProtocolError", "ReadError", "ChunkedEncodingError"}, "the connection to the hub broke off"),
    ({"TimeoutException", "TimeoutError", "Timeout"}, "the hub did not answer in time"),
    ({"ConnectError", "ConnectionError"}, "the hub at {endpoint} cannot be reached"),
)


def hub_trouble(repo: str) -> Exception | None:
    """Why the hub does not give ``repo``, asked once in short: the libraries ask for most of a minute before they
    look in the cache."""
    try:
        HfApi().model_info(repo, timeout=TIMEOUT, expand=["sha"])
    except Exception as trouble:  # whatever it is, the cache may still serve
        return trouble
    return None


@contextmanager
def explained(what: str, advice: str, trouble: Exception | None = None) -> Iterator[None]:
    """Turn any exception into ``AdapterError("cannot load WHAT: why; ADVICE")``; an AdapterError passes.

    With ``trouble``, why the hub is out of reach, only the cache was looked at."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as fault:
        why = f"{reason(trouble)}, and the cache holds no copy" if trouble else reason(fault)
        raise AdapterError(f"cannot load {what}: {why}; {advice}") from fault


def reason(fault: Exception) -> str:
    """Why, in a few words: of the hub where it is at the root, else the first sentence of ``fault``."""
    causes = list(_causes(fault))
    kinds = {kind.__name__ for cause in causes for kind in type(cause).__mro__}
    for names, sentence in HUB_REASONS:
        if names & kinds:
            return sentence.format(endpoint=constants.ENDPOINT)
    for cause in causes:
        if status := getattr(getattr(cause, "response", None), "status_code", None):
            return f"the hub answers with status {status}"
    return _first_sentence(str(fault)) or type(fault).__name__


def _first_sentence(text: str) -> str:
    """Of a message that may go on for pages; a line that ends in a colon only announces the next."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[1] if len(lines) > 1 and lines[0].endswith(":") else "".join(lines[:1])
    return first.partition(". ")[0].rstrip(".")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
