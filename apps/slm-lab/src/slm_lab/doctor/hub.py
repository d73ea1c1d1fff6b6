"""The model hub, and what was kept of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from huggingface_hub import HfApi, constants

from slm_adapters import hub_error_reason as reason
from slm_data import token_cache_dir as default_cache_dir
from slm_lab.doctor.check import Check
from slm_lab.figures import size

SECONDS = 5.0
ASKED = "openai-community/gpt2"
OFFLINE = "without it there are --dataset sample, files of your own, and what the cache holds"


def hub(seconds: float = SECONDS) -> Check:
    """Whether the hub answers, asked once; an answer of any kind counts."""
    if constants.HF_HUB_OFFLINE:
        return Check("hub", "limited", "offline mode is on", f"unset HF_HUB_OFFLINE to load by name; {OFFLINE}")
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(_ask(seconds)), daemon=True)
    asking.start()
    asking.join(seconds)  # names are looked up without a limit of their own
    trouble = said[0] if said else f"{constants.ENDPOINT} did not answer within {seconds:g} s"
    if not trouble:
        return Check("hub", "works", f"{constants.ENDPOINT} answers")
    return Check("hub", "limited", trouble, f"see HF_ENDPOINT and proxies; {OFFLINE}")


def _ask(seconds: float) -> str:
    """What is wrong; nothing where it answers."""
    try:
        HfApi().model_info(ASKED, timeout=seconds, expand=["sha"])
    except Exception as trouble:  # a dozen kinds, one sentence each
        status: int | None = getattr(getattr(trouble, "response", None), "status_code", None)
        return "" if status is not None and status < 500 else reason(trouble)
    return ""


def hub_cache() -> Check:
    """What was loaded by name."""
    return _cache("hub cache", Path(constants.HF_HUB_CACHE), "HF_HOME")


def token_cache() -> Check:
    """Tokenised corpora."""
    return _cache("token cache", default_cache_dir(), "SLM_CACHE")


def _cache(name: str, folder: Path, variable: str) -> Check:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    found = f"{size(_bytes(folder))} in {folder}"
    if not os.access(there, os.W_OK):
        return Check(name, "limited", f"{folder} is not writable", f"set {variable} to a folder of yours")
    return Check(name, "works", found)


def _bytes(folder: Path) -> int:
    """Of files, those behind links once."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            path = Path(place, name)
            total += 0 if path.is_symlink() else path.stat().st_size
    return total
