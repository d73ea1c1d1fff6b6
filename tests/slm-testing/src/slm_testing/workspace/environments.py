"""Environments that hold one member of the workspace and nothing but what it declares.

Wheels of members are installed; what others made, torch and the like, is linked from the environment of the tests,
so that nothing is downloaded. A link is made for declared dependencies alone, and for theirs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "slm-"


def environment(name: str, wheels: Path, folder: Path) -> Path:
    """The folder of the programs of a new environment in ``folder`` that holds the member called ``name``."""
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    pending, done = [Requirement(name)], set[str]()
    while pending:
        wanted = pending.pop()
        if (key := f"{canonicalize_name(wanted.name)}{sorted(wanted.extras)}") not in done:
            done.add(key)
            found = _install(wanted.name, wheels, folder) if wanted.name.startswith(OURS) else _link(wanted.name, site)
            pending += _required(found, wanted)
    return folder / "bin"


def _install(name: str, wheels: Path, folder: Path) -> Distribution:
    (wheel,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
    command = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(folder)]
    subprocess.run([*command, str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    return next(iter(distributions(name=name, path=[str(site)])))


def _link(name: str, site: Path) -> Distribution:
    found = distribution(name)
    for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
        place = site / top
        if not place.exists():
            place.symlink_to(Path(str(found.locate_file(top))).resolve())
    return found


def _required(found: Distribution, wanted: Requirement) -> Iterator[Requirement]:
    """What the distribution declares, with the extras that ``wanted`` asks for."""
    for line in found.requires or ():
        requirement = Requirement(line)
        extras = ("", *wanted.extras)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement
