"""The repository on the hub: checking its name, creating it, and one commit with all files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from slm_adapters.base.hub_errors import hub_error_reason, hub_status
from slm_adapters.base.log_filters import quiet_hub
from slm_adapters.errors import AdapterError
from slm_adapters.publishing.files import PublishedFile
from slm_adapters.publishing.hub_library import can_be_repository, show_progress_on_terminals

LOG_IN = "log in with 'hf auth login', or set HF_TOKEN to a token with write access"
TRY_AGAIN = "run the same command again; files that the hub already has are not sent again"
WEIGHTS = ("*.safetensors", "*.gguf", "*.bin", "*.pt", "*.safetensors.index.json", "adapter_config.json", "config.json")
KINDS = ("models", "datasets", "spaces")


@dataclass(frozen=True)
class Repository:
    """Where files are published.

    Attributes:
        name: OWNER/NAME.
        private: Whether only its owner may see it.
        revision: A branch, created if it does not exist; None for the main one.
    """

    name: str
    private: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        owner, _, rest = self.name.partition("/")
        if owner in KINDS and "/" in rest:
            raise AdapterError(f"{self.name!r} names a kind of repository; give OWNER/NAME alone, for a model")
        if not rest or not can_be_repository(self.name):
            raise AdapterError(
                f"{self.name!r} is not a name on the hub; give OWNER/NAME, of letters, digits and single - _ ."
            )


def upload(files: Sequence[PublishedFile], repository: Repository, message: str) -> str:
    """Create the repository unless it exists, commit ``files``, and return the address of the commit.

    There is one commit, so that the repository never has a part of the files.

    Raises AdapterError, with nothing committed, if the hub refuses or cannot be reached, if the repository has other
    weights, or is public although a private one is requested. Also if its .gitignore leaves out a file.
    """
    api = HfApi()
    show_progress_on_terminals()
    with _explain("cannot log in to the hub", user=None):
        user = str(api.whoami()["name"])
    with _explain(f"cannot create {repository.name}", user):
        api.create_repo(repository.name, private=repository.private or None, exist_ok=True)
        if repository.revision:
            api.create_branch(repository.name, branch=repository.revision, exist_ok=True)
    _check_repository(api, repository, {file.name for file in files}, user)
    operations = [CommitOperationAdd(file.name, file.source) for file in files]
    with _explain(f"cannot upload to {repository.name}", user), _quiet():
        commit = api.create_commit(repository.name, operations, commit_message=message, revision=repository.revision)
        present = api.list_repo_files(repository.name, revision=repository.revision)
    if missing := sorted({file.name for file in files}.difference(present)):
        raise AdapterError(f"{repository.name} does not take {missing[0]}; remove it from the .gitignore there")
    return str(commit.commit_url)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages on what is no mistake: metadata that is left out, files that have not changed."""
    with quiet_hub(), warnings.catch_warnings(action="ignore"):
        yield


def _check_repository(api: HfApi, repository: Repository, names: set[str], user: str) -> None:
    """Raise AdapterError if the files would be public, or next to weights with which they make no model."""
    name = repository.name
    with _explain(f"cannot read {name}", user):
        try:
            info = api.model_info(name, revision=repository.revision)
        except RepositoryNotFoundError as error:
            raise AdapterError(
                f"{name} is the name of a repository that is not one of a model; give another name"
            ) from error
    if repository.private and not info.private:
        raise AdapterError(f"{name} exists and is public; make it private in its settings, or give another name")
    present = {sibling.rfilename for sibling in info.siblings or ()} - names
    if others := sorted(file for file in present if any(fnmatch(file, pattern) for pattern in WEIGHTS)):
        raise AdapterError(
            f"{name} holds another model ({others[0]}), with which these files do not belong together; "
            f"give another name or --revision, or delete {others[0]} there"
        )


@contextmanager
def _explain(subject: str, user: str | None) -> Iterator[None]:
    """Turn an exception of the hub's library into ``AdapterError("SUBJECT: reason; REMEDY")``."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:  # the hub's library raises errors of several others
        reason, remedy = _reason(error, user)
        raise AdapterError(f"{subject}: {reason}; {remedy}") from error


def _reason(error: Exception, user: str | None) -> tuple[str, str]:
    """Return why the hub refuses, and what to do."""
    status, reason = hub_status(error), hub_error_reason(error)
    if type(error).__name__ == "LocalTokenNotFoundError":
        return "you are not logged in", LOG_IN
    if status == 401:
        return "the hub does not accept the token", LOG_IN
    if status == 403:
        return f"the token of {user} may not write there", f"use one with write access to it, or push to {user}/NAME"
    if status == 400:
        return f"the hub does not accept the request ({_details(error)})", "correct what it names"
    if "offline" in reason:
        return reason, "unset HF_HUB_OFFLINE"
    return reason, f"try again later: {TRY_AGAIN}" if status else f"check the network and {TRY_AGAIN}"


def _details(error: Exception) -> str:
    return " ".join(str(getattr(error, "server_message", None) or hub_error_reason(error)).split())
