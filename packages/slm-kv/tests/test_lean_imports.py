"""``slm-paged`` imports only what generating on a CPU needs; the rest works when something uses it after all."""

import sys
from pathlib import Path

import pytest
import torch
import transformers.modeling_utils  # noqa: F401 - imported before the function under test

import slm_testing.forked as forked
from slm_kv import import_modelling_code

GENERATE = """
import sys
from slm_kv.paged import main
sys.argv = ["slm-paged", "--threads", "1", "--max_new_tokens", "1", "--device", "cpu"]
assert main() == 0
print([name for name in ("sklearn", "sympy", "torch._inductor", "torch.distributed.tensor") if name in sys.modules])
"""
IMPORT = "from slm_kv import import_modelling_code; import_modelling_code('cpu')\n"


def last_line(code: str, folder: Path) -> str:
    """Run code in a process that has imported torch only, and return the last line that it prints."""
    done = forked.run_program(code, [], folder, imported="torch")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_generating_on_a_cpu_imports_no_compiler_distributed_tensors_or_scikit_learn(tmp_path: Path) -> None:
    assert last_line(GENERATE, tmp_path) == "[]"


@pytest.mark.parametrize(
    "use",
    [
        "import torch; print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2)",
        "import transformers.masking_utils as masks\nwith masks.TransformGetItemToIndex(): print(True)",
        "import torch._dynamo.utils; print(hasattr(torch._dynamo.utils, 'counters'))",
    ],
)
def test_the_compiler_is_imported_when_it_is_used(use: str, tmp_path: Path) -> None:
    assert last_line(IMPORT + use, tmp_path) == "True"


def test_modelling_code_that_is_imported_already_is_left_alone() -> None:
    before = torch.distributed.is_available()
    import_modelling_code("cpu")
    assert torch.distributed.is_available() is before
    assert type(sys.modules["torch._dynamo"]).__name__ == "module"
