"""Import rules that import-linter does not check: in tests, scripts and recipes as well as in sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from slm_testing.workspace.readme_blocks import ROOT

FOLDERS = ("packages", "apps", "tests", "scripts", "recipes")
MEMBERS = {folder.name.replace("-", "_") for level in ("packages", "apps") for folder in (ROOT / level).iterdir()}
# Documented module paths: `slm_adapters.laws` needs the extra slm-adapters[laws].
PUBLIC_MODULES = {"slm_adapters.laws", "slm_adapters.layer_laws"}


def python_files() -> list[Path]:
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def imported_modules(source: str) -> Iterator[str]:
    """Yield every module that ``import`` and ``from ... import`` statements name, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@cache
def imports_of(file: Path) -> tuple[str, ...]:
    return (*imported_modules(file.read_text()),)


def owner(file: Path) -> str | None:
    """Return the member that a file belongs to; for a test helper, the member whose tests use it."""
    parts = file.relative_to(ROOT).parts
    if parts[0] in ("packages", "apps"):
        return parts[1].replace("-", "_")
    if parts[:2] == ("tests", "slm-testing") and len(parts) > 5:
        return f"slm_{parts[4]}"
    return None


def foreign_submodules(file: Path) -> list[str]:
    """Return the submodules of other members that ``file`` imports."""
    submodules = [name for name in imports_of(file) if name.partition(".")[0] in MEMBERS and "." in name]
    return [name for name in submodules if name.partition(".")[0] != owner(file) and name not in PUBLIC_MODULES]


def test_the_check_finds_a_lazy_import_of_another_members_submodule() -> None:
    names = list(imported_modules("def f():\n    from slm_kv.engine.engine import Engine\n    import slm_data.rows\n"))
    assert names == ["slm_kv.engine.engine", "slm_data.rows"]


def test_members_are_imported_by_their_public_names() -> None:
    foreign = {str(file.relative_to(ROOT)): foreign_submodules(file) for file in python_files()}
    assert {file: names for file, names in foreign.items() if names} == {}


def test_no_test_module_and_no_conftest_is_imported() -> None:
    importers = {file: imports_of(file) for file in python_files()}
    assert [
        (str(file.relative_to(ROOT)), name)
        for file, names in importers.items()
        for name in names
        if name == "conftest" or name.startswith("test_")
    ] == []
