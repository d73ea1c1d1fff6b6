"""The texts of one split of a hub dataset, row by row."""

from __future__ import annotations

from slm_data.errors import DataError
from slm_data.sources.hub.dataset_names import resolve_hub_name
from slm_data.sources.text_column import DEFAULT_COLUMN, value_of


def split_texts(name: str, split: str) -> list[str]:
    """Return the column ``text`` of a split as the hub has it, empty rows included, in the dataset's order.

    Args:
        name: A short name such as ``wikitext2``, or ``owner/name[:config]``.
        split: Such as ``test``, which ``load_corpus`` never reads.

    Raises:
        DataError: The dataset cannot be loaded, or has no such split or no texts.
    """
    # Imported here, because the datasets library takes seconds to import.
    from slm_data.sources.hub.access import open_dataset

    dataset = open_dataset(resolve_hub_name(name))
    if split not in dataset.splits:
        raise DataError(f"the dataset {name} has no split {split!r}, only {', '.join(dataset.splits)}; choose another")
    dataset.check_text_column(split, None)
    return [str(value_of(record, DEFAULT_COLUMN) or "") for record in dataset.records(split, [DEFAULT_COLUMN])]
