"""Whether a dataset will be downloaded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants

from slm_data.sample.built_in import BUILT_IN
from slm_data.sources.hub.dataset_names import resolve_hub_name
from slm_data.sources.options import SourceOptions


def find_missing_dataset(options: SourceOptions) -> str | None:
    """Return the hub name of the dataset that ``load_corpus`` will download, or None if it downloads nothing.

    Raises:
        DataError: The name is unknown, or is a path.
    """
    name = options.dataset
    if options.train_file or options.streaming or constants.HF_HUB_OFFLINE:
        return None
    if not name or name.lower() in BUILT_IN:
        return None
    repo = resolve_hub_name(name).partition(":")[0]
    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}" / "snapshots"
    return None if cached.is_dir() else repo
