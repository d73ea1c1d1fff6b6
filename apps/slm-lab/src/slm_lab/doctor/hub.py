"""Checks of the model hub, and of the caches of models and tokens."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from huggingface_hub import HfApi, constants

from slm_adapters import hub_error_reason
from slm_data import token_cache_dir
from slm_lab.doctor.check import Check
from slm_lab.formatting import format_bytes

TIMEOUT = 5.0  # seconds
PROBED_MODEL = "openai-community/gpt2"
WITHOUT_HUB = "without the hub, use --dataset sample, your own files, or models and datasets in the cache"


def check_hub(timeout: float = TIMEOUT) -> Check:
    """Check whether the hub answers one request within ``timeout`` seconds. An error below 500 counts as an answer."""
    if constants.HF_HUB_OFFLINE:
        advice = f"unset HF_HUB_OFFLINE to load models and datasets by name; {WITHOUT_HUB}"
        return Check("hub", "limited", "offline mode is on", advice)
    problems: list[str] = []
    # In a thread: resolving the host's name ignores the timeout of the request.
    request = threading.Thread(target=lambda: problems.append(_request_problem(timeout)), daemon=True)
    request.start()
    request.join(timeout)
    problem = problems[0] if problems else f"{constants.ENDPOINT} did not answer within {timeout:g} s"
    if not problem:
        return Check("hub", "works", f"{constants.ENDPOINT} answers")
    return Check("hub", "limited", problem, f"check HF_ENDPOINT and proxy settings; {WITHOUT_HUB}")


def _request_problem(timeout: float) -> str:
    """What prevents an answer; empty if the hub answers."""
    try:
        HfApi().model_info(PROBED_MODEL, timeout=timeout, expand=["sha"])
    except Exception as error:  # the client raises a dozen kinds
        status: int | None = getattr(getattr(error, "response", None), "status_code", None)
        return "" if status is not None and status < 500 else hub_error_reason(error)
    return ""


def check_hub_cache() -> Check:
    """Check the size of the downloaded models and datasets."""
    return _check_cache("hub cache", Path(constants.HF_HUB_CACHE), "HF_HOME")


def check_token_cache() -> Check:
    """Check the size of the tokenised datasets."""
    return _check_cache("token cache", token_cache_dir(), "SLM_CACHE")


def _check_cache(name: str, folder: Path, variable: str) -> Check:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return Check(name, "limited", f"{folder} is not writable", f"set {variable} to a writable folder")
    return Check(name, "works", f"{format_bytes(_folder_bytes(folder))} in {folder}")


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path, _, files in os.walk(folder):
        for name in files:
            file = Path(path, name)
            # The hub's cache links from snapshots to blobs: count the blobs only.
            total += 0 if file.is_symlink() else file.stat().st_size
    return total
