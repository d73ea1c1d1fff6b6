"""Build a wheel and an sdist of every published member of the workspace, and check their contents.

    python3 scripts/release.py dist

``dist`` then contains the files to publish, and nothing of the unpublished member slm-testing. The exit code is 1 if a
file lacks a part of the member's sources, ``py.typed``, its README or the licence, or contains an unexpected file.
"""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Members outside these folders (tests/slm-testing) are not published.
PUBLISHED = ("packages/*/pyproject.toml", "apps/*/pyproject.toml")

WHEEL_METADATA = {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE"}
OPTIONAL_WHEEL_METADATA = {"entry_points.txt"}
SDIST_FILES = {"PKG-INFO", "README.md", "LICENSE", "pyproject.toml"}
OPTIONAL_SDIST_FILES = {"pyproject.toml.orig"}  # the original, if uv wrote another pyproject.toml


@dataclass(frozen=True)
class Member:
    """A published package of the workspace, with name and version from its pyproject.toml."""

    folder: Path
    name: str
    version: str

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    @property
    def stem(self) -> str:
        """The beginning of the file names of its wheel and sdist."""
        return f"{self.module}-{self.version}"

    @property
    def sources(self) -> set[str]:
        """Every file under ``src/``, relative to it, except compiled ones."""
        source = self.folder / "src"
        files = (file.relative_to(source) for file in source.rglob("*") if file.is_file())
        return {file.as_posix() for file in files if "__pycache__" not in file.parts}


def members(root: Path = ROOT) -> list[Member]:
    """Return the published members."""
    published = []
    for file in sorted(file for pattern in PUBLISHED for file in root.glob(pattern)):
        project = tomllib.loads(file.read_text())["project"]
        published.append(Member(file.parent, project["name"], project["version"]))
    return published


def build(out: Path, root: Path = ROOT) -> None:
    """Build a wheel and an sdist of each published member in ``out``.

    Members are built one by one, because ``uv build --all-packages`` also builds the unpublished ones. With
    ``--no-sources`` a member depends on its siblings by version, not by path.
    """
    for member in members(root):
        command = ["uv", "build", "--package", member.name, "--no-sources", "--quiet", "--out-dir", str(out.resolve())]
        subprocess.run(command, cwd=root, check=True)


def faults(member: Member, out: Path) -> list[str]:
    """Return the faults of the two files of ``member``, one sentence each."""
    wheel, sdist = out / f"{member.stem}-py3-none-any.whl", out / f"{member.stem}.tar.gz"
    missing = [f"{file.name} was not built" for file in (wheel, sdist) if not file.is_file()]
    if missing:
        return missing
    sources = member.sources | {f"{member.module}/py.typed"}
    messages = _differences(
        wheel.name,
        _wheel_files(wheel),
        sources | _in_folder(f"{member.stem}.dist-info", WHEEL_METADATA),
        _in_folder(f"{member.stem}.dist-info", OPTIONAL_WHEEL_METADATA),
    )
    messages += _differences(
        sdist.name,
        _sdist_files(sdist),
        _in_folder(member.stem, SDIST_FILES) | _in_folder(f"{member.stem}/src", sources),
        _in_folder(member.stem, OPTIONAL_SDIST_FILES),
    )
    if (member.folder / "README.md").read_text() not in _metadata(wheel, member):
        messages.append(f"{wheel.name} does not contain README.md")
    return messages


def _in_folder(folder: str, names: set[str]) -> set[str]:
    return {f"{folder}/{name}" for name in names}


def _differences(name: str, actual: set[str], required: set[str], optional: set[str]) -> list[str]:
    missing = [f"{name} lacks {file}" for file in sorted(required - actual)]
    return missing + [f"{name} contains the unexpected {file}" for file in sorted(actual - required - optional)]


def _wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def _sdist_files(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {entry.name for entry in archive if entry.isfile()}


def _metadata(wheel: Path, member: Member) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{member.stem}.dist-info/METADATA").decode()


def main() -> int:
    if len(sys.argv) != 2:
        print("release.py: name the folder for the files: python3 scripts/release.py dist", file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    build(out)
    messages = [fault for member in members() for fault in faults(member, out)]
    for message in messages:
        print(f"release.py: {message}", file=sys.stderr)
    if not messages:
        print("\n".join(f"{out / member.stem}: wheel and sdist" for member in members()))
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
