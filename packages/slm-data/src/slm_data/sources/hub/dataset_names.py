"""Short names of hub datasets."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from slm_data.errors import DataError
from slm_data.sources.file_formats import parse_file_name

WIKITEXT = "Salesforce/wikitext"
WIKITEXT_CONFIGS = ("wikitext-2-raw-v1", "wikitext-2-v1", "wikitext-103-raw-v1", "wikitext-103-v1")
HUB_NAMES = {
    "tinystories": "roneneldan/TinyStories",
    "wikitext2": f"{WIKITEXT}:wikitext-2-raw-v1",
    "wikitext": f"{WIKITEXT}:wikitext-2-raw-v1",
    **{config: f"{WIKITEXT}:{config}" for config in WIKITEXT_CONFIGS},
}
SUGGESTED_NAMES = ("tinystories", "wikitext2", "sample", "harbour")  # listed in error messages


def resolve_hub_name(name: str) -> str:
    """Return ``owner/name[:config]`` for a short name; a name of that form is returned as it is.

    Raises:
        DataError: The name is unknown, or is a path.
    """
    if full_name := HUB_NAMES.get(name.lower()):
        return full_name
    if parse_file_name(Path(name)).kind or Path(name).exists():
        raise DataError(f"--dataset {name!r} is a path; use --train_file for own files")
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[^:]+)?", name):
        return name
    close = difflib.get_close_matches(name.lower(), [*SUGGESTED_NAMES, *HUB_NAMES], n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise DataError(
        f"unknown dataset {name!r}: {hint}Choose from {', '.join(SUGGESTED_NAMES)}, or use owner/name[:config] "
        "of a hub dataset"
    )


def dataset_hub_id(name: str | None) -> str | None:
    """Return the id of a dataset on the hub, ``owner/name``; None for a built-in corpus and for no name."""
    full_name = HUB_NAMES.get((name or "").lower(), name or "")
    identifier = full_name.partition(":")[0]
    return identifier if re.fullmatch(r"[\w.-]+/[\w.-]+", identifier) else None
