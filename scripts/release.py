"""Build every member of the workspace as strangers get it, and look at what is in the files.

    python3 scripts/release.py dist

``dist`` then holds a wheel and an sdist of each member. The exit code is 1 if one of them lacks a file of the member's
sources, ``py.typed``, its README or the licence, or holds what nobody asked for.
"""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OF_A_WHEEL = {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"}
OF_SOME_WHEELS = {"entry_points.txt"}
OF_AN_SDIST = {"PKG-INFO", "README.md", "LICENSE", "pyproject.toml"}
OF_SOME_SDISTS = {"pyproject.toml.orig"}  # as it was, where uv wrote another


@dataclass(frozen=True)
class Member:
    """A package of the workspace: its folder, and what its pyproject.toml calls it."""

    folder: Path
    name: str
    version: str

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    @property
    def stem(self) -> str:
        """What its files are called after."""
        return f"{self.module}-{self.version}"

    @property
    def sources(self) -> set[str]:
        """Every file under ``src/``, as it is called there; what Python compiled beside them is none."""
        source = self.folder / "src"
        found = (file.relative_to(source) for file in source.rglob("*") if file.is_file())
        return {file.as_posix() for file in found if "__pycache__" not in file.parts}


def members(root: Path = ROOT) -> list[Member]:
    found = []
    for file in sorted([*root.glob("packages/*/pyproject.toml"), *root.glob("apps/*/pyproject.toml")]):
        project = tomllib.loads(file.read_text())["project"]
        found.append(Member(file.parent, project["name"], project["version"]))
    return found


def build(out: Path, root: Path = ROOT) -> None:
    """A wheel and an sdist of each member in ``out``; siblings are those of the index, not of the workspace."""
    command = ["uv", "build", "--all-packages", "--no-sources", "--quiet", "--out-dir", str(out.resolve())]
    subprocess.run(command, cwd=root, check=True)


def faults(member: Member, out: Path) -> list[str]:
    """What is wrong with the two files of ``member``, a sentence each."""
    wheel, sdist = out / f"{member.stem}-py3-none-any.whl", out / f"{member.stem}.tar.gz"
    missing = [f"{file.name} was not built" for file in (wheel, sdist) if not file.is_file()]
    if missing:
        return missing
    sources = member.sources | {f"{member.module}/py.typed"}
    said = _differences(
        wheel.name,
        _in_wheel(wheel),
        sources | _below(f"{member.stem}.dist-info", OF_A_WHEEL),
        _below(f"{member.stem}.dist-info", OF_SOME_WHEELS),
    )
    said += _differences(
        sdist.name,
        _in_sdist(sdist),
        _below(member.stem, OF_AN_SDIST) | _below(f"{member.stem}/src", sources),
        _below(member.stem, OF_SOME_SDISTS),
    )
    if (member.folder / "README.md").read_text() not in _metadata(wheel, member):
        said.append(f"{wheel.name} does not carry README.md")
    return said


def _below(folder: str, names: set[str]) -> set[str]:
    return {f"{folder}/{name}" for name in names}


def _differences(name: str, found: set[str], wanted: set[str], optional: set[str]) -> list[str]:
    lacks = [f"{name} lacks {file}" for file in sorted(wanted - found)]
    return lacks + [f"{name} holds {file}, which is no part of it" for file in sorted(found - wanted - optional)]


def _in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def _in_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {entry.name for entry in archive if entry.isfile()}


def _metadata(wheel: Path, member: Member) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{member.stem}.dist-info/METADATA").decode()


def main() -> int:
    if len(sys.argv) != 2:
        print("release.py: give the folder for the files: python3 scripts/release.py dist", file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    build(out)
    said = [fault for member in members() for fault in faults(member, out)]
    for fault in said:
        print(f"release.py: {fault}", file=sys.stderr)
    if not said:
        print("\n".join(f"{out / member.stem}: wheel and sdist" for member in members()))
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
