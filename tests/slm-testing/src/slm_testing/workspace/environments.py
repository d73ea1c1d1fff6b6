"""Virtual environments with one member of the workspace and only its declared dependencies, or with some packages.

Members are installed from their wheels. Third-party packages are symbolic links into the environment of the tests, so
nothing is downloaded; only declared dependencies, direct and indirect, are linked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MEMBER_PREFIX = "slm-"


def create_environment(name: str, wheels: Path, folder: Path) -> Path:
    """Create an environment with the member ``name`` in ``folder``, and return its folder of programs."""
    site = _create(folder)
    pending, done = [Requirement(name)], set[str]()
    while pending:
        requirement = pending.pop()
        if (key := f"{canonicalize_name(requirement.name)}{sorted(requirement.extras)}") not in done:
            done.add(key)
            is_member = requirement.name.startswith(MEMBER_PREFIX)
            installed = _install(requirement.name, wheels, folder) if is_member else _link(requirement.name, site)
            pending += _requirements(installed, requirement)
    return folder / "bin"


def create_environment_of(packages: Iterable[str], folder: Path, without: Collection[str] = ()) -> Path:
    """Create an environment with those of ``packages`` that are installed, and all that they require.

    Args:
        packages: Their names.
        folder: Where to create it.
        without: Names of requirements that are left out.

    Returns:
        Its folder of programs.
    """
    site = _create(folder)
    pending, done = [Requirement(name) for name in packages], set(without)
    while pending:
        requirement = pending.pop()
        if (name := canonicalize_name(requirement.name)) not in done:
            done.add(name)
            with suppress(PackageNotFoundError):
                pending += _requirements(_link(requirement.name, site), requirement)
    return folder / "bin"


def _create(folder: Path) -> Path:
    """Create an empty environment, and return the folder of its packages."""
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, folder], check=True)
    return next(folder.glob("lib/python*/site-packages"))


def _install(name: str, wheels: Path, folder: Path) -> Distribution:
    (wheel,) = wheels.glob(f"{name.replace('-', '_')}-*.whl")
    command = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(folder)]
    subprocess.run([*command, str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    return next(iter(distributions(name=name, path=[str(site)])))


def _link(name: str, site: Path) -> Distribution:
    installed = distribution(name)
    for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
        link = site / top
        # Namespace packages such as nvidia are shared by several distributions.
        if not link.exists():
            link.symlink_to(Path(str(installed.locate_file(top))).resolve())
    return installed


def _requirements(installed: Distribution, requested: Requirement) -> Iterator[Requirement]:
    """Yield the declared dependencies of a distribution, with those of the requested extras."""
    for line in installed.requires or ():
        dependency = Requirement(line)
        extras = ("", *requested.extras)
        if dependency.marker is None or any(dependency.marker.evaluate({"extra": extra}) for extra in extras):
            yield dependency
