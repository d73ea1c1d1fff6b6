"""Version and import of slm_lab."""

import subprocess
import sys
from importlib.metadata import version

import slm_lab


def test_the_version_is_the_one_of_its_metadata() -> None:
    # `uv version --bump` changes pyproject.toml alone.
    assert slm_lab.__version__ == version("slm-lab")


def test_the_import_loads_no_heavy_library() -> None:
    code = "import sys, slm_lab; print(*{'torch', 'transformers', 'vllm'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"
