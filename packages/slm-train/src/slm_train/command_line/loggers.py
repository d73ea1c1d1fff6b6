"""Checking ``--report_to`` before a run starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from slm_train.errors import TrainError, did_you_mean

EXTRAS = ("tensorboard", "trackio", "wandb")  # extras of this package, each named like the logger it installs
_WANDB_WITHOUT_ACCOUNT = {"offline", "dryrun", "disabled", "shared"}


def check_loggers(names: Sequence[str]) -> None:
    """Raise TrainError for a logger that is unknown, not installed, or cannot be used without an account."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise TrainError(f"--report_to {name}: {did_you_mean(name, known)}choose from {', '.join(known)}")
        if name not in get_available_reporting_integrations():
            raise TrainError(f"--report_to {name}: its package is not installed; {_remedy(name)}")
        if name == "wandb":
            _check_wandb_account()


def _remedy(name: str) -> str:
    if name in EXTRAS:
        return f'pip install "slm-train[{name}]", or uv sync --all-packages --extra {name} in the workspace'
    installed = [extra for extra in EXTRAS if extra in get_available_reporting_integrations()]
    return f"install it, or use {' or '.join(installed or EXTRAS)}"


def _check_wandb_account() -> None:
    """Raise TrainError if wandb would ask for an account, which it does after the model was loaded."""
    wandb: Any = import_module("wandb")
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in _WANDB_WITHOUT_ACCOUNT and not wandb.login(prompt=False, verify=False):
        raise TrainError(
            "--report_to wandb: you are not logged in; run wandb login, or set WANDB_MODE=offline to log to files"
        )
