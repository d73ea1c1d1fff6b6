"""Each member has one base class for its errors: a ValueError, in its ``errors.py``."""

from __future__ import annotations

import ast
import builtins
from pathlib import Path

import pytest

from slm_testing.workspace.readme_blocks import ROOT

BASES = {
    "packages/slm-data": "DataError",
    "packages/slm-adapters": "AdapterError",
    "packages/slm-train": "TrainError",
    "packages/slm-kv": "KVError",
    "packages/slm-serve": "ServeError",
    "apps/slm-bench": "BenchError",
    "apps/slm-lab": "LabError",
}
# Not an error: it ends the response to a client that has disconnected, and nobody sees it.
SIGNALS = {"ClientDisconnected"}
BUILT_IN = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}


def builtin_subclasses(member: Path) -> dict[str, tuple[str, str]]:
    """Return the classes that derive from a built-in exception: by name, the file and the base class."""
    classes = {}
    for file in (member / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                for base in map(ast.unparse, node.bases):
                    if base in BUILT_IN:
                        classes[node.name] = (file.name, base)
    return classes


@pytest.mark.parametrize("folder", BASES)
def test_all_errors_of_a_member_derive_from_one_value_error(folder: str) -> None:
    classes = builtin_subclasses(ROOT / folder)
    errors = {name: origin for name, origin in classes.items() if name not in SIGNALS}
    assert errors == {BASES[folder]: ("errors.py", "ValueError")}
