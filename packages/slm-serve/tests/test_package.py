"""The package: version, exports, errors, and an import without heavy libraries."""

import subprocess
import sys
from importlib.metadata import version

import slm_serve
from slm_serve import errors


def test_the_version_equals_that_of_the_metadata() -> None:
    # `uv version --bump` changes only pyproject.toml.
    assert slm_serve.__version__ == version("slm-serve")


def test_the_import_loads_no_heavy_library() -> None:
    code = "import sys, slm_serve; print(*{'torch', 'transformers', 'vllm'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"


def test_every_exported_name_can_be_imported() -> None:
    assert sorted(slm_serve._EXPORTS) == sorted(slm_serve.__all__)
    assert all(getattr(slm_serve, name).__name__ == name for name in slm_serve.__all__)


def test_all_errors_have_one_base_class() -> None:
    defined = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(defined) >= 5
    assert all(issubclass(error, slm_serve.ServeError) and issubclass(error, ValueError) for error in defined)
