"""The default folder of a run is named by its dataset or its first file."""

from typing import Any

import pytest

from slm_data import SourceOptions
from slm_train.command_line.run_defaults import _dataset_name


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"dataset": "owner/Some_Stories:small"}, "Some-Stories-small"),
        ({"train_file": ["texts/my stories.jsonl.gz", "b.txt"]}, "my-stories"),
        ({"train_file": ["texts/novels/"]}, "novels"),
        ({"train_file": ["texts/novels/*.md"]}, "novels"),
        ({"train_file": ["texts/part-*.parquet"]}, "part"),
        ({"train_file": ["/"]}, "run"),
    ],
)
def test_a_run_is_named_by_its_texts(options: dict[str, Any], name: str) -> None:
    assert _dataset_name(SourceOptions(**options)) == name
