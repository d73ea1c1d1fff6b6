"""The package itself: its version, its exports, and what importing it loads."""

import subprocess
import sys
from importlib.metadata import version

import slm_kv


def test_the_version_equals_that_of_the_installed_metadata() -> None:
    # `uv version --bump` changes pyproject.toml only.
    assert slm_kv.__version__ == version("slm-kv")


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, slm_kv; print(*{'torch', 'transformers', 'vllm'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"
