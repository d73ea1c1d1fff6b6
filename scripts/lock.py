"""Keep uv.lock free of addresses, so that one committed file serves every mirror.

    python3 scripts/lock.py update [uv lock options]    relock, settle and strip
    python3 scripts/lock.py strip [--filter]            drop the addresses of uv.lock, or from stdin to stdout
    python3 scripts/lock.py check                       does the lock in git say what uv resolves?

A stripped lock pins versions and hashes. At the next `uv sync` or `uv run` uv fills the addresses in again,
from the user's own index, and writes them into the working file.

`strip` runs on Python 3.9 too: git's filter takes whatever python3 the contributor has.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "uv.lock"
REMEDY = "run `python3 scripts/lock.py update` and `git add uv.lock`"
# Two have been enough so far. A lock that still changes after this many would never hold.
MAX_RESTORES = 5


class LockError(Exception):
    """What is wrong with the lock, in one sentence."""


class Package(NamedTuple):
    """One `[[package]]` entry of a stripped lock."""

    name: str
    version: str
    hashes: dict[str, str]  # by file name
    text: str


def strip(text: str) -> str:
    """Return the lock without addresses and without what differs from index to index."""
    text = re.sub(r'registry = "[^"]*"', 'registry = "index"', text)
    text = re.sub(r'^( +|sdist = )\{ url = "[^"]*/([^"/?#]+)[^"]*"', _filename, text, flags=re.MULTILINE)
    # Not every index tells the size and the date of a file.
    text = re.sub(r', size = \d+|, upload-time = "[^"]*"', "", text)
    # With its metadata uv would take the lock for a complete one, and fail for want of the addresses.
    return re.sub(r"^\[package\.metadata[.\]].*\n(?:(?!\[).*\n)*", "", text, flags=re.MULTILINE)


def _filename(match: re.Match[str]) -> str:
    return f'{match[1]}{{ filename = "{unquote(match[2])}"'


def packages(stripped: str) -> dict[str, list[Package]]:
    """Return the entries of a stripped lock by name; where a resolution forks, a name has several."""
    found: dict[str, list[Package]] = {}
    for text in stripped.split("[[package]]\n")[1:]:
        entry = Package(_value(text, "name"), _value(text, "version"), _hashes(text), text)
        found.setdefault(entry.name, []).append(entry)
    return found


def _value(entry: str, key: str) -> str:
    match = re.search(rf'^{key} = "(.*)"$', entry, flags=re.MULTILINE)
    return match[1] if match else ""


def _hashes(entry: str) -> dict[str, str]:
    return dict(re.findall(r'filename = "([^"]*)", hash = "([^"]*)"', entry))


def verify(committed: str, restored: str) -> None:
    """Raise LockError unless `restored`, stripped, is `committed`."""
    restored = strip(restored)
    if committed == restored:
        return
    _compare_packages(packages(committed), packages(restored))
    raise LockError(f"the constraints, members or forks in uv.lock are not what uv resolves now; {REMEDY}.")


def require_no_address(committed: str) -> None:
    for number, line in enumerate(committed.splitlines(), start=1):
        if "://" in line:
            raise LockError(f"line {number} of uv.lock holds an address ({line.strip()[:60]} ...); {REMEDY}.")


def _compare_packages(committed: dict[str, list[Package]], restored: dict[str, list[Package]]) -> None:
    for name in sorted(committed.keys() | restored.keys()):
        pinned, found = committed.get(name, []), restored.get(name, [])
        if [entry.version for entry in pinned] != [entry.version for entry in found]:
            raise LockError(f"{name} is {_versions(pinned)} in uv.lock but {_versions(found)} now; {REMEDY}.")
        for ours, theirs in zip(pinned, found, strict=True):
            _compare_entries(ours, theirs)


def _versions(entries: list[Package]) -> str:
    return " and ".join(entry.version or "unversioned" for entry in entries) or "absent"


def _compare_entries(pinned: Package, found: Package) -> None:
    for filename in sorted(pinned.hashes.keys() | found.hashes.keys()):
        ours, theirs = pinned.hashes.get(filename, "absent"), found.hashes.get(filename, "absent")
        if ours != theirs:
            raise LockError(f"{filename} is {ours} in uv.lock but {theirs} on the package index; {REMEDY}.")
    if pinned.text != found.text:
        label = f"{pinned.name} {pinned.version}".strip()
        raise LockError(f"the requirements of {label} in uv.lock are not what uv resolves now; {REMEDY}.")


def staged() -> str:
    """Return uv.lock as git has it staged: what the next commit holds, or what a clean checkout holds."""
    done = subprocess.run(["git", "show", ":uv.lock"], cwd=ROOT, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise LockError(f"git has no uv.lock ({done.stderr.strip()}); run `git add uv.lock`.")
    return done.stdout


def resolve(directory: Path, options: list[str]) -> None:
    if shutil.which("uv") is None:
        raise LockError("uv is not on the PATH; `pip install uv` brings it.")
    # The interpreter is named because a bare directory has no environment to take one from.
    done = subprocess.run(["uv", "lock", "--python", sys.executable, *options], cwd=directory)
    if done.returncode:
        raise LockError(f"uv lock failed with exit code {done.returncode}; its message is above.")


def restore(stripped: str) -> str:
    """Return what uv makes of a stripped lock, resolved beside copies of the pyproject.toml files."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        # The root and its members, which lie two folders deep: a static pyproject.toml is all that uv reads.
        for source in [ROOT / "pyproject.toml", *ROOT.glob("*/*/pyproject.toml")]:
            target = directory / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        (directory / LOCK.name).write_bytes(stripped.encode())
        resolve(directory, ["--quiet"])
        return (directory / LOCK.name).read_bytes().decode()


def settle(stripped: str) -> str:
    """Restore until nothing changes: resolving from a lock, uv may fold forks that a fresh run kept."""
    for _ in range(MAX_RESTORES):
        again = strip(restore(stripped))
        if again == stripped:
            return stripped
        stripped = again
    raise LockError(f"uv.lock still changes after {MAX_RESTORES} restores: no clone would get what it says.")


def update(options: list[str]) -> None:
    resolve(ROOT, options)
    LOCK.write_bytes(settle(strip(LOCK.read_bytes().decode())).encode())
    print("uv.lock is up to date and holds no address; next: `git add uv.lock`.")


def strip_file() -> None:
    LOCK.write_bytes(strip(LOCK.read_bytes().decode()).encode())


def strip_stream() -> None:
    sys.stdout.buffer.write(strip(sys.stdin.buffer.read().decode()).encode())


def check() -> None:
    committed = staged()
    require_no_address(committed)
    verify(committed, restore(committed))
    count = len(packages(committed))
    print(f"uv.lock: {count} packages, no address, versions and hashes as on the package index.")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("update", help="uv lock with the given options, settled and stripped")
    verbs.add_parser("check", help="compare the lock in git with what uv resolves")
    stripping = verbs.add_parser("strip", help="drop the addresses")
    stripping.add_argument("--filter", action="store_true", help="stdin to stdout: git's clean filter")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.verb != "update":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options, rest


def main() -> int:
    options, rest = parse(sys.argv[1:])
    try:
        if options.verb == "update":
            update(rest)
        elif options.verb == "check":
            check()
        else:
            (strip_stream if options.filter else strip_file)()
    except LockError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
