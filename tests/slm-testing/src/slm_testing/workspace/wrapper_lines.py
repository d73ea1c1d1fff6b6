"""Finding the command that a wrapper in scripts/ runs: it is started with a fake uv that prints its arguments."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

FAKE_UV = "#!/bin/sh\nprintf '%s\\0' \"$@\"\n"


def words_for_uv(script: Path, flags: Sequence[str] = (), folder: Path | None = None) -> list[str]:
    """Return the arguments that ``script``, started in ``folder``, passes to uv."""
    with tempfile.TemporaryDirectory() as bin_folder:
        fake_uv = Path(bin_folder, "uv")
        fake_uv.write_text(FAKE_UV)
        fake_uv.chmod(0o755)
        path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
        result = subprocess.run([script, *flags], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode().split("\0")[:-1]


def program_line(script: Path, flags: Sequence[str] = ()) -> list[str]:
    """Return the program that ``script`` starts, and its arguments."""
    run, project, _, *line = words_for_uv(script, flags)
    assert (run, project) == ("run", "--project")
    return line
