"""The short names of datasets on the model hub."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from slm_data.errors import DataError
from slm_data.readers import READERS

WIKITEXT = "Salesforce/wikitext"
WIKITEXT_CONFIGS = ("wikitext-2-raw-v1", "wikitext-2-v1", "wikitext-103-raw-v1", "wikitext-103-v1")
HUB_NAMES = {
    "tinystories": "roneneldan/TinyStories",
    "wikitext2": f"{WIKITEXT}:wikitext-2-raw-v1",
    "wikitext": f"{WIKITEXT}:wikitext-2-raw-v1",
    **{config: f"{WIKITEXT}:{config}" for config in WIKITEXT_CONFIGS},
}
NAMES = ("tinystories", "wikitext2", "sample")  # what an error offers


def hub_name(name: str) -> str:
    """``owner/name[:config]`` of a known name, or of itself; raises DataError for an unknown one."""
    if known := HUB_NAMES.get(name.lower()):
        return known
    if Path(name).suffix.lower() in READERS or Path(name).exists():
        raise DataError(f"--dataset {name!r} is a path; own files are named by --train_file")
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[^:]+)?", name):
        return name
    close = difflib.get_close_matches(name.lower(), [*NAMES, *HUB_NAMES], n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise DataError(f"unknown dataset {name!r}: {hint}Known are {', '.join(NAMES)}, and owner/name[:config] of the hub")
