"""Reference pages of the packages' public names, for mkdocstrings."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from docs_site.repository import MEMBERS


def python_pages() -> dict[str, str]:
    """Return the Markdown of each page by its path in the site; a program without public names has none."""
    packages = {folder.name: import_module(folder.name.replace("-", "_")) for folder in MEMBERS}
    return {
        f"reference/python/{name}.md": "\n".join(_page(package))
        for name, package in packages.items()
        if hasattr(package, "__all__")
    }


def _page(package: ModuleType) -> Iterator[str]:
    yield f"# {package.__name__}\n\n{package.__doc__ or ''}\n"
    for part, members in sorted(_by_part(package.__all__, package._EXPORTS).items()):
        yield f"## {part}\n"
        yield from (f"::: {package.__name__}.{name}\n" for name in sorted(members, key=_kind))


def _by_part(names: list[str], exports: dict[str, str]) -> dict[str, list[str]]:
    """Group names by the first part of the module that defines them: the folder, or the file at the top level."""
    parts: dict[str, list[str]] = {}
    for name in names:
        module = exports[name].partition(":")[0]
        parts.setdefault(module.partition(".")[0].replace("_", " "), []).append(name)
    return parts


def _kind(name: str) -> tuple[bool, bool, str]:
    """Sort classes before functions, and constants last."""
    return name.isupper(), name.islower(), name.lower()
