"""Source options as command-line flags, and the settings that are refused."""

from typing import Any

import pytest
from transformers import HfArgumentParser

from slm_data.errors import DataError
from slm_data.sources.options import SourceOptions


def test_the_options_are_command_line_flags() -> None:
    (options,) = HfArgumentParser(SourceOptions).parse_args_into_dataclasses(  # type: ignore[arg-type]
        [
            "--train_file",
            "a.txt",
            "b.txt",
            "--document_separator",
            "\\n",
            "--max_train_samples",
            "3",
            "--streaming",
        ]
    )
    assert options == SourceOptions(
        train_file=["a.txt", "b.txt"], document_separator="\\n", max_train_samples=3, streaming=True
    )
    assert options.separator == "\n"
    assert "--text_column" in HfArgumentParser(SourceOptions).format_help()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dataset": "sample", "train_file": ["a.txt"]}, "--dataset sample and --train_file"),
        ({"validation_file": ["a.txt"]}, "--validation_file needs"),
        ({"max_train_samples": 0}, "--max_train_samples 0"),
        ({"max_eval_samples": -1}, "--max_eval_samples -1"),
        ({"validation_fraction": 0.0}, "--validation_fraction 0.0"),
        ({"validation_fraction": 0.51}, "--validation_fraction 0.51"),
        ({"validation_fraction": float("nan")}, "--validation_fraction nan"),
        ({"document_separator": ""}, "--document_separator is empty"),
    ],
)
def test_invalid_options_are_refused_on_construction(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        SourceOptions(**options)
    assert expected in str(caught.value)
