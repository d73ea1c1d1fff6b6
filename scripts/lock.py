"""Keep uv.lock free of URLs, so that the committed file works with every package index and mirror.

    python3 scripts/lock.py update [uv lock options]    run uv lock, then strip the file until it is stable
    python3 scripts/lock.py strip [--filter]            remove the URLs of uv.lock, or from stdin to stdout
    python3 scripts/lock.py check                       compare the lock in git with what uv resolves

A stripped lock pins versions and hashes. The next `uv sync` or `uv run` adds the URLs of the user's own index to the
working copy.

`strip` also runs on Python 3.9: git's filter uses the contributor's python3, whatever its version.
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
# Two have been enough so far. A lock that still changes after five restores will not become stable.
MAX_RESTORES = 5


class LockError(Exception):
    """A fault of the lock, as one sentence for the user."""


class Package(NamedTuple):
    """One `[[package]]` entry of a stripped lock."""

    name: str
    version: str
    hashes: dict[str, str]  # by file name
    text: str


def strip(text: str) -> str:
    """Return the lock without URLs and without details that differ between indexes."""
    text = re.sub(r'registry = "[^"]*"', 'registry = "index"', text)
    text = re.sub(r'^( +|sdist = )\{ url = "[^"]*/([^"/?#]+)[^"]*"', _filename, text, flags=re.MULTILINE)
    # Not every index provides the size and the date of a file.
    text = re.sub(r', size = \d+|, upload-time = "[^"]*"', "", text)
    # With [package.metadata], uv 0.13.9 treats the lock as complete and fails because the URLs are missing.
    return re.sub(r"^\[package\.metadata[.\]].*\n(?:(?!\[).*\n)*", "", text, flags=re.MULTILINE)


def _filename(match: re.Match[str]) -> str:
    return f'{match[1]}{{ filename = "{unquote(match[2])}"'


def packages(stripped: str) -> dict[str, list[Package]]:
    """Return the entries of a stripped lock by name; if a resolution forks, a name has several."""
    by_name: dict[str, list[Package]] = {}
    for text in stripped.split("[[package]]\n")[1:]:
        entry = Package(_value(text, "name"), _value(text, "version"), _hashes(text), text)
        by_name.setdefault(entry.name, []).append(entry)
    return by_name


def _value(entry: str, key: str) -> str:
    match = re.search(rf'^{key} = "(.*)"$', entry, flags=re.MULTILINE)
    return match[1] if match else ""


def _hashes(entry: str) -> dict[str, str]:
    return dict(re.findall(r'filename = "([^"]*)", hash = "([^"]*)"', entry))


def verify(committed: str, restored: str) -> None:
    """Raise LockError unless `restored`, stripped, equals `committed`."""
    restored = strip(restored)
    if committed == restored:
        return
    _compare_packages(packages(committed), packages(restored))
    raise LockError(f"the constraints, members or forks in uv.lock are not what uv resolves now; {REMEDY}.")


def require_no_url(committed: str) -> None:
    for number, line in enumerate(committed.splitlines(), start=1):
        if "://" in line:
            raise LockError(f"line {number} of uv.lock contains a URL ({line.strip()[:60]} ...); {REMEDY}.")


def _compare_packages(committed: dict[str, list[Package]], restored: dict[str, list[Package]]) -> None:
    for name in sorted(committed.keys() | restored.keys()):
        pinned, resolved = committed.get(name, []), restored.get(name, [])
        if [entry.version for entry in pinned] != [entry.version for entry in resolved]:
            raise LockError(f"{name} is {_versions(pinned)} in uv.lock but {_versions(resolved)} now; {REMEDY}.")
        for pinned_entry, resolved_entry in zip(pinned, resolved, strict=True):
            _compare_entries(pinned_entry, resolved_entry)


def _versions(entries: list[Package]) -> str:
    return " and ".join(entry.version or "unversioned" for entry in entries) or "absent"


def _compare_entries(pinned: Package, resolved: Package) -> None:
    for filename in sorted(pinned.hashes.keys() | resolved.hashes.keys()):
        in_lock, on_index = pinned.hashes.get(filename, "absent"), resolved.hashes.get(filename, "absent")
        if in_lock != on_index:
            raise LockError(f"{filename} is {in_lock} in uv.lock but {on_index} on the package index; {REMEDY}.")
    if pinned.text != resolved.text:
        label = f"{pinned.name} {pinned.version}".strip()
        raise LockError(f"the requirements of {label} in uv.lock are not what uv resolves now; {REMEDY}.")


def staged() -> str:
    """Return uv.lock as staged in git: that of the next commit, or of a clean checkout."""
    result = subprocess.run(["git", "show", ":uv.lock"], cwd=ROOT, capture_output=True, encoding="utf-8")
    if result.returncode:
        raise LockError(f"git has no uv.lock ({result.stderr.strip()}); run `git add uv.lock`.")
    return result.stdout


def resolve(directory: Path, options: list[str]) -> None:
    if shutil.which("uv") is None:
        raise LockError("uv is not on the PATH; run `pip install uv`.")
    # The interpreter is given, because a temporary directory has no environment that determines it.
    result = subprocess.run(["uv", "lock", "--python", sys.executable, *options], cwd=directory)
    if result.returncode:
        raise LockError(f"uv lock failed with exit code {result.returncode}; its message is above.")


def restore(stripped: str) -> str:
    """Return the lock that uv writes from a stripped one, next to copies of the pyproject.toml files."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        # The root and its members, which are two folders deep. uv reads nothing but their static pyproject.toml.
        for source in [ROOT / "pyproject.toml", *ROOT.glob("*/*/pyproject.toml")]:
            target = directory / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        (directory / LOCK.name).write_bytes(stripped.encode())
        resolve(directory, ["--quiet"])
        return (directory / LOCK.name).read_bytes().decode()


def stabilise(stripped: str) -> str:
    """Restore and strip until nothing changes: when uv resolves from a lock, it may merge forks of the resolution."""
    for _ in range(MAX_RESTORES):
        again = strip(restore(stripped))
        if again == stripped:
            return stripped
        stripped = again
    raise LockError(
        f"uv.lock still changes after {MAX_RESTORES} restores, so clones would get other versions than it pins."
    )


def update(options: list[str]) -> None:
    resolve(ROOT, options)
    LOCK.write_bytes(stabilise(strip(LOCK.read_bytes().decode())).encode())
    print("uv.lock is up to date and contains no URL; next: `git add uv.lock`.")


def strip_file() -> None:
    LOCK.write_bytes(strip(LOCK.read_bytes().decode()).encode())


def strip_stream() -> None:
    sys.stdout.buffer.write(strip(sys.stdin.buffer.read().decode()).encode())


def check() -> None:
    committed = staged()
    require_no_url(committed)
    verify(committed, restore(committed))
    count = len(packages(committed))
    print(f"uv.lock: {count} packages, no URL, versions and hashes as on the package index.")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("update", help="run uv lock with these options, then strip the file until it is stable")
    verbs.add_parser("check", help="compare the lock in git with what uv resolves")
    stripping = verbs.add_parser("strip", help="remove the URLs")
    stripping.add_argument("--filter", action="store_true", help="from stdin to stdout, as git's clean filter")
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
