import subprocess
import sys
from importlib.metadata import version

import slm_serve


def test_the_version_equals_that_of_the_metadata() -> None:
    # `uv version --bump` changes only pyproject.toml.
    assert slm_serve.__version__ == version("slm-serve")


def test_the_import_loads_no_heavy_library() -> None:
    code = "import sys, slm_serve; print(*{'torch', 'transformers', 'vllm'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "\n"
