"""The package: its version, its exports and what importing it costs."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import slm_data

HEAVY = ("torch", "transformers", "datasets", "pyarrow", "numpy", "tokenizers", "huggingface_hub")
# What other commands need before they have parsed their flags.
LIGHT_IMPORTS = [
    "import slm_data",
    "from slm_data import DataError, SourceOptions",
    "from slm_data import PLAIN_TEMPLATE, ChatTemplate, is_plain_template",
    "from slm_data import PACKINGS, Packing, as_packing",
    "from slm_data import SAMPLE_TRAIN_SEED, sample_base, sample_story; sample_story(SAMPLE_TRAIN_SEED, 0)",
]


def test_the_version_is_that_of_the_package() -> None:
    assert slm_data.__version__ == version("slm-data")


@pytest.mark.parametrize("name", slm_data.__all__)
def test_an_export_has_the_name_of_its_definition(name: str) -> None:
    assert slm_data._EXPORTS[name].endswith(f":{name}")
    assert getattr(slm_data, name) is not None


def test_all_exports_are_listed() -> None:
    assert sorted(slm_data.__all__) == sorted(slm_data._EXPORTS)


def test_an_unknown_export_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'slm_data' has no attribute 'tokenise'"):
        slm_data.tokenise  # noqa: B018


@pytest.mark.parametrize("statement", LIGHT_IMPORTS)
def test_parsing_flags_imports_no_heavy_library(statement: str) -> None:
    code = f"import sys; {statement}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
