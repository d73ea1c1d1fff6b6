"""``--push_to_hub``: checking login and repository before a run, and uploading its checkpoints and its result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from slm_adapters import hub_error_reason, published_files
from slm_train.arguments import Arguments
from slm_train.errors import TrainError, shown

_LOG_IN = "log in with 'hf auth login', or give --hub_token with write access"


def prepare_upload(arguments: Arguments) -> Arguments:
    """Return the options with the full name of the repository, which is created unless it is a dry run.

    Raises TrainError if the hub cannot be reached, does not accept the token, or refuses the repository.
    """
    training = arguments.training
    if not training.push_to_hub or not training.should_save:
        return arguments
    repository = training.hub_model_id or Path(str(training.output_dir)).absolute().name
    api = HfApi(token=training.hub_token)
    with _explain(f"--push_to_hub to {shown(repository)}", _LOG_IN):
        owner = str(api.whoami()["name"])
    if arguments.run.dry_run:
        return arguments
    remedy = "give another --hub_model_id OWNER/NAME, or a token with write access"
    with _explain(f"--push_to_hub as {owner} to {shown(repository)}", remedy):
        name = api.create_repo(repository, private=training.hub_private_repo, exist_ok=True).repo_id
        if training.hub_revision:
            api.create_branch(name, branch=training.hub_revision, exist_ok=True)
    training = copy.copy(training)
    training.hub_model_id = name
    return replace(arguments, training=training)


def upload_result(training: TrainingArguments, folder: Path, print_line: Callable[[str], None]) -> None:
    """Upload a finished run: weights, tokenizer, model card, record and log, without checkpoints.

    Raises TrainError if that fails; the run itself is complete on disk.
    """
    if not training.push_to_hub or not training.should_save:
        return
    remedy = f"slm-adapters push {folder} {training.hub_model_id}"
    with _explain(f"the run in {folder} is finished, but not uploaded", remedy):
        _commit(training, "End of training", _model_files(folder))
    print_line(f"uploaded to {training.hub_model_id}")


def upload_checkpoint(training: TrainingArguments, checkpoint: Path) -> None:
    """Upload a complete checkpoint, as ``--hub_strategy`` requests.

    A hub that cannot be reached does not end the training; the result is uploaded at the end.
    """
    strategy = training.hub_strategy
    if not training.push_to_hub or not training.should_save or strategy == HubStrategy.END:
        return
    message = f"Training in progress, {checkpoint.name}"
    try:
        _commit(training, message, _model_files(checkpoint))
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            _commit(training, message, {f"{name}/{file}": path for file, path in _all_files(checkpoint).items()})
    except Exception as error:  # whatever it is, the run continues
        print(f"{checkpoint.name} was not uploaded: {hub_error_reason(error)}")


def _model_files(folder: Path) -> dict[str, Path | bytes]:
    """The files of the model in ``folder`` by name, without paths of this machine."""
    return {file.name: file.source for file in published_files(folder)}


def _all_files(folder: Path) -> dict[str, Path]:
    """All files of a checkpoint by name, unchanged: it can only be resumed with the files of its manifest."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _commit(training: TrainingArguments, message: str, files: Mapping[str, Path | bytes]) -> None:
    """Upload ``files`` in one commit, so that the repository never has a part of them."""
    HfApi(token=training.hub_token).create_commit(
        str(training.hub_model_id),
        [CommitOperationAdd(name, source) for name, source in files.items()],
        commit_message=message,
        revision=training.hub_revision,
    )


@contextmanager
def _explain(subject: str, remedy: str) -> Iterator[None]:
    """Turn any error of the hub into ``TrainError("SUBJECT: reason; REMEDY")``."""
    try:
        yield
    except Exception as error:  # the hub's library raises errors of several others
        is_logged_out = type(error).__name__ == "LocalTokenNotFoundError"
        reason = "you are not logged in" if is_logged_out else hub_error_reason(error)
        raise TrainError(f"{subject}: {reason}; {remedy}") from error
