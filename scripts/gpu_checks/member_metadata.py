"""Metadata of the members, as an installation would write it: programs look up their versions and entry points."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any


def write_metadata(members: list[Path], folder: Path) -> None:
    """Write a ``.dist-info`` for each member into ``folder``, which is then put on Python's path.

    Args:
        members: Folders with a pyproject.toml.
        folder: Is created; metadata in it are replaced.
    """
    for member in members:
        project: dict[str, Any] = tomllib.loads((member / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        target = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        target.mkdir(parents=True, exist_ok=True)
        (target / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
        )
        (target / "entry_points.txt").write_text(_entry_points(project), encoding="utf-8")


def _entry_points(project: dict[str, Any]) -> str:
    groups: dict[str, dict[str, str]] = {"console_scripts": project.get("scripts", {})}
    groups |= project.get("entry-points", {})
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    return "\n".join(lines)
