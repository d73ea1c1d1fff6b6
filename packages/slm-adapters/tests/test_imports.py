"""Modules that ``import slm_adapters`` loads, and registration with PEFT in every order of imports."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import slm_adapters
import slm_testing.forked as forked
from slm_testing.adapters.tiny_adapters import MakeModel, Save, logits, with_butterfly

HEAVY = ["torch", "transformers", "peft", "bitsandbytes", "datasets", "pyarrow", "huggingface_hub", "hypothesis"]


def run_python(code: str, *argv: object) -> str:
    """Run ``code`` in a fresh process and return what it prints; nothing may be written to stderr."""
    command = [sys.executable, "-c", code, *map(str, argv)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    return process.stdout


def test_importing_the_package_and_its_settings_loads_nothing_heavy() -> None:
    code = f"""
import sys, slm_adapters
slm_adapters.ButterflySettings(block_size="auto", preset="quality"), slm_adapters.LoraSettings(r=4)
slm_adapters.AdapterError, slm_adapters.quiet_bitsandbytes, slm_adapters.Rotation
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert run_python(code).strip() == "[]"


def test_folders_and_base_names_are_read_without_torch(base: Path) -> None:
    code = """
import sys, slm_adapters
print(slm_adapters.find_base(sys.argv[1]).folder.tensors["transformer.wte.weight"].shape)
print([name for name in ("torch", "transformers", "peft") if name in sys.modules])
"""
    assert run_python(code, base).splitlines() == ["(48, 64)", "[]"]


def test_exactly_the_exported_names_exist() -> None:
    assert sorted(slm_adapters.__all__) == sorted(slm_adapters._EXPORTS)
    for name, path in slm_adapters._EXPORTS.items():
        assert path.endswith(f":{name}")  # exported under its own name
        assert getattr(slm_adapters, name) is not None
    with pytest.raises(AttributeError, match=r"module 'slm_adapters' has no attribute 'load_everything'"):
        _ = slm_adapters.load_everything  # type: ignore[attr-defined]


LOAD = """
import torch
from transformers import AutoModelForCausalLM
base, run = sys.argv[1:3]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run).eval()
with torch.no_grad():
    actual = model(input_ids=torch.load(sys.argv[3]), use_cache=False).logits
print(type(model.base_model).__name__, torch.equal(actual, torch.load(sys.argv[4])))
"""


# Slow: four seconds each, for PEFT's imports.
@pytest.mark.parametrize(
    "imports",
    [
        pytest.param("import slm_adapters\nfrom peft import PeftModel", id="slm_adapters-first"),
        pytest.param("from peft import PeftModel\nimport slm_adapters", id="peft-first", marks=pytest.mark.slow),
        pytest.param(
            "import slm_adapters.butterfly.method.config\nfrom peft import PeftModel",
            id="method-first",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_peft_alone_loads_a_butterfly_in_every_order_of_imports(
    imports: str, tiny: MakeModel, base: Path, save: Save, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    adapted = with_butterfly(tiny("gpt2"))
    run = save(adapted)
    torch.save(input_ids, tmp_path / "ids.pt")
    torch.save(logits(adapted, input_ids), tmp_path / "logits.pt")
    setup = "import sys\nfrom transformers.utils.logging import disable_progress_bar\ndisable_progress_bar()\n"
    code = f"{setup}{imports}\n{LOAD}"
    words = [base, run, tmp_path / "ids.pt", tmp_path / "logits.pt"]
    process = forked.run_program(code, words, tmp_path, imported="transformers")
    assert (process.returncode, process.stdout.strip()) == (0, "ButterflyModel True"), process.stderr


MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(slm_adapters.__path__, "slm_adapters.")
    if not module.name.endswith((".cli", "__main__"))
)

# What PEFT imports once, then a child for each module: a fresh process for each would take minutes.
FIRST_IMPORTS = """
import os, sys, traceback
import accelerate, slm_adapters, torch, transformers.pytorch_utils
with slm_adapters.quiet_bitsandbytes():
    try:
        import bitsandbytes
    except ImportError:  # there is no wheel for this machine
        pass
assert "peft" not in sys.modules
for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            __import__(module)
            if "peft" in sys.modules:
                from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
                from slm_adapters.butterfly.method.tuner import ButterflyModel
                assert PEFT_TYPE_TO_TUNER_MAPPING["BUTTERFLY"] is ButterflyModel
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(module, os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow  # half a minute; the import contracts exclude cycles in every run
@pytest.mark.parametrize("half", [0, 1])
def test_each_module_may_be_the_first_to_be_imported(half: int) -> None:
    modules = MODULES[half::2]
    assert run_python(FIRST_IMPORTS, *modules).splitlines() == [f"{module} 0" for module in modules]


IMPORT_PEFT = """
import importlib.util, logging, sys, slm_adapters

class WarningFinder:  # logs bitsandbytes' warning about its missing kernel when it is imported
    def find_spec(self, name, path=None, target=None):
        if name == "bitsandbytes":
            logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load CPU gemm_4bit_forward")

has_bitsandbytes = importlib.util.find_spec("bitsandbytes") is not None
if has_bitsandbytes:
    sys.meta_path.insert(0, WarningFinder())
print(importlib.util.find_spec("peft") is not None, "peft" in sys.modules)
import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
print("BUTTERFLY" in PEFT_TYPE_TO_CONFIG_MAPPING, type(peft.__loader__).__name__, type(peft.__spec__.loader).__name__)
print([type(finder).__name__ for finder in sys.meta_path if "slm" in type(finder).__module__])
print(has_bitsandbytes == ("bitsandbytes" in sys.modules))
"""


def test_asking_whether_peft_is_installed_does_not_import_it_and_importing_it_warns_of_no_missing_kernel(
    tmp_path: Path,
) -> None:
    """In one process, because importing PEFT takes four seconds."""
    process = forked.run_program(IMPORT_PEFT, [], tmp_path, imported="transformers")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines() == ["True False", "True SourceFileLoader SourceFileLoader", "[]", "True"]


def test_slm_adapters_may_be_imported_while_peft_is_half_initialised(tmp_path: Path) -> None:
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("import slm_adapters\nprint(sorted(slm_adapters._EXPORTS)[0])\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import peft; print('peft' in sys.modules)"
    assert run_python(code).splitlines() == ["ADAPTER_CONFIG", "True"]


WITHOUT_PEFT = """
import importlib.machinery, sys

class PathsWithoutPeft:
    def find_spec(name, path=None, target=None):
        return None if name == "peft" else importlib.machinery.PathFinder.find_spec(name, path, target)

sys.meta_path = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, PathsWithoutPeft]
import slm_adapters
try:
    import peft
except ModuleNotFoundError as missing:
    print(missing)
"""


def test_a_peft_that_is_not_installed_is_reported_as_missing() -> None:
    assert run_python(WITHOUT_PEFT).strip() == "No module named 'peft'"
