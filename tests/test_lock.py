"""scripts/lock.py: what it strips, what it keeps, and what its check refuses."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def load_script() -> ModuleType:
    # scripts/ is a folder of programs, not a package on the path.
    spec = importlib.util.spec_from_file_location("lock", SCRIPTS / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock = load_script()

RESTORED = """\
version = 1
requires-python = ">=3.11"

[[package]]
name = "lamp"
version = "2.1.0"
source = { registry = "https://mirror.example/simple" }
dependencies = [
    { name = "wick", version = "1.0", source = { registry = "https://mirror.example/simple" } },
]
sdist = { url = "https://mirror.example/a/lamp-2.1.0.tar.gz", hash = "sha256:aa", size = 7, upload-time = "" }
wheels = [
    { url = "https://mirror.example/cd/lamp-2.1.0%2Bcpu-py3-none-any.whl#x=1", hash = "sha256:bb", size = 9 },
]

[[package]]
name = "house"
version = "0.1.0"
source = { editable = "packages/house" }
dependencies = [
    { name = "lamp" },
]

[package.metadata]
requires-dist = [
    { name = "lamp", extras = ["oil"], specifier = ">=2" },
]

[package.metadata.requires-dev]
dev = [{ name = "wick" }]

[[package]]
name = "wick"
version = "1.0"
source = { registry = "https://mirror.example/simple" }
"""

STRIPPED = """\
version = 1
requires-python = ">=3.11"

[[package]]
name = "lamp"
version = "2.1.0"
source = { registry = "index" }
dependencies = [
    { name = "wick", version = "1.0", source = { registry = "index" } },
]
sdist = { filename = "lamp-2.1.0.tar.gz", hash = "sha256:aa" }
wheels = [
    { filename = "lamp-2.1.0+cpu-py3-none-any.whl", hash = "sha256:bb" },
]

[[package]]
name = "house"
version = "0.1.0"
source = { editable = "packages/house" }
dependencies = [
    { name = "lamp" },
]

[[package]]
name = "wick"
version = "1.0"
source = { registry = "index" }
"""


def test_strip_removes_urls_and_metadata_and_keeps_versions_and_hashes() -> None:
    assert lock.strip(RESTORED) == STRIPPED


def test_strip_leaves_a_direct_url_for_the_check_to_refuse() -> None:
    direct = 'source = { url = "https://mirror.example/lamp.whl" }\n'
    assert lock.strip(direct) == direct


Content = list[tuple[str, list[tuple[str, str]]]]  # packages: name, and its files: name, digest

names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
contents = st.lists(st.tuples(names, st.lists(st.tuples(names, digests), max_size=3)), max_size=4)


def render(content: Content, mirror: str, details: str = "") -> str:
    text = "version = 1\n"
    for name, wheels in content:
        text += f'\n[[package]]\nname = "{name}"\nversion = "1"\n'
        text += f'source = {{ registry = "{mirror}" }}\nwheels = [\n'
        for wheel, digest in wheels:
            text += f'    {{ url = "{mirror}/{wheel}.whl", hash = "sha256:{digest}"{details} }},\n'
        text += "]\n"
    return text


@given(contents)
def test_strip_gives_one_lock_for_every_mirror_and_is_idempotent(content: Content) -> None:
    details = ', size = 12, upload-time = "2026-01-01T00:00:00Z"'
    stripped = lock.strip(render(content, "https://one.example/simple", details))
    assert stripped == lock.strip(render(content, "http://two.example:8080/root/index"))
    assert stripped == lock.strip(stripped)


@given(contents)
def test_strip_keeps_every_hash_in_order(content: Content) -> None:
    stripped = lock.strip(render(content, "https://one.example/simple"))
    kept_digests = re.findall(r'"sha256:(.*?)"', stripped)
    assert kept_digests == [digest for _, wheels in content for _, digest in wheels]


def test_verify_accepts_the_lock_that_was_stripped() -> None:
    lock.verify(STRIPPED, RESTORED)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ('"2.1.0"\nsource', '"2.2.0"\nsource', "lamp is 2.1.0 in uv.lock but 2.2.0 now"),
        (
            "sha256:bb",
            "sha256:cc",
            r"cpu-py3-none-any.whl is sha256:bb in uv.lock but sha256:cc on",
        ),
        ('"wick"\nversion', '"wax"\nversion', "wax is absent in uv.lock but 1.0 now"),
        ('{ name = "lamp" },', '{ name = "lamp", marker = "x" },', "the requirements of house 0.1.0"),
        (">=3.11", ">=3.12", "the constraints, members or forks"),
    ],
)
def test_verify_names_what_differs(before: str, after: str, sentence: str) -> None:
    assert before in RESTORED
    with pytest.raises(lock.LockError, match=sentence):
        lock.verify(STRIPPED, RESTORED.replace(before, after))


def test_a_url_is_refused_with_its_line() -> None:
    with pytest.raises(lock.LockError, match=r"line 7 of uv\.lock contains a URL"):
        lock.require_no_url(RESTORED)
    lock.require_no_url(STRIPPED)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with the script and a project without dependencies: uv resolves it without an index."""
    (tmp_path / "scripts").mkdir()
    for name in ("lock.py", "setup"):
        shutil.copy(SCRIPTS / name, tmp_path / "scripts")
    shutil.copy(SCRIPTS.parent / ".gitattributes", tmp_path)
    write_project(tmp_path, version="0.1.0")
    run(tmp_path, "git", "init", "--quiet")
    return tmp_path


def write_project(directory: Path, version: str) -> None:
    text = f'[project]\nname = "house"\nversion = "{version}"\nrequires-python = ">=3.11"\n'
    (directory / "pyproject.toml").write_text(text)


def run(directory: Path, *command: str) -> str:
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def check(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/lock.py", "check"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


def test_check_passes_after_an_update_and_fails_when_a_project_changed_without_one(clone: Path) -> None:
    run(clone, sys.executable, "scripts/lock.py", "update")
    run(clone, "git", "add", ".")
    assert check(clone).returncode == 0
    write_project(clone, version="0.2.0")
    result = check(clone)
    assert result.returncode == 1
    assert result.stderr.startswith("error: house is 0.1.0 in uv.lock but 0.2.0 now; run `python3")


def test_check_reports_that_git_has_no_lock(clone: Path) -> None:
    result = check(clone)
    assert result.returncode == 1
    assert "run `git add uv.lock`" in result.stderr


def test_with_the_filter_a_restored_lock_is_not_a_change_and_is_stored_stripped(clone: Path) -> None:
    run(clone, "bash", "scripts/setup")
    (clone / "uv.lock").write_text(STRIPPED)
    run(clone, "git", "add", ".")
    (clone / "uv.lock").write_text(RESTORED)
    assert run(clone, "git", "diff", "--name-only") == ""
    run(clone, "git", "add", "uv.lock")
    assert run(clone, "git", "show", ":uv.lock") == STRIPPED
    assert run(clone, "git", "status", "--short", "uv.lock") == "A  uv.lock\n"


def test_without_the_filter_git_stores_the_file_as_it_is(clone: Path) -> None:
    (clone / "uv.lock").write_text(RESTORED)
    run(clone, "git", "add", ".")
    assert run(clone, "git", "show", ":uv.lock") == RESTORED
    assert "contains a URL" in check(clone).stderr
