"""``--push_to_hub``: checking login and repository before a run, and uploading its checkpoints and its result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from slm_adapters import hub_error_reason
from slm_train.arguments import Arguments
from slm_train.checkpoints.best_weights import stored_weights
from slm_train.checkpoints.step_checkpoint_file import STEP_CHECKPOINT_FILE
from slm_train.errors import TrainError, shown

_LOG_IN = "log in with 'hf auth login', or give --hub_token with write access"
_STATE_OF_TRAINING = ["optimizer*", "scheduler*", "scaler*", "rng_state*", "trainer_state.json", "manifest*", "*.pt"]
_NOT_OF_THE_RESULT = ["_*", ".*", "checkpoint-*", STEP_CHECKPOINT_FILE]


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
    best = [path.name for path in stored_weights(folder).values()]
    with _explain(f"the run in {folder} is finished, but not uploaded", f"hf upload {training.hub_model_id} {folder}"):
        _upload(training, folder, "End of training", ignore_patterns=[*_NOT_OF_THE_RESULT, *best])
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
        _upload(training, checkpoint, message, ignore_patterns=_STATE_OF_TRAINING)
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            _upload(training, checkpoint, message, path_in_repo=name)
    except Exception as error:  # whatever it is, the run continues
        print(f"{checkpoint.name} was not uploaded: {hub_error_reason(error)}")


def _upload(
    training: TrainingArguments,
    folder: Path,
    message: str,
    *,
    path_in_repo: str | None = None,
    ignore_patterns: list[str] | None = None,
) -> None:
    HfApi(token=training.hub_token).upload_folder(
        repo_id=str(training.hub_model_id),
        folder_path=folder,
        path_in_repo=path_in_repo,
        commit_message=message,
        revision=training.hub_revision,
        ignore_patterns=ignore_patterns,
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
