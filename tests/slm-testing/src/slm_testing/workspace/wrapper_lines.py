"""What a wrapper of scripts/ would run: it is started with a stand-in for uv that prints its words."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

STAND_IN = "#!/bin/sh\nprintf '%s\\0' \"$@\"\n"


def words_for_uv(script: Path, flags: Sequence[str] = (), folder: Path | None = None) -> list[str]:
    """The words that ``script``, started in ``folder``, hands to uv."""
    with tempfile.TemporaryDirectory() as place:
        stand_in = Path(place, "uv")
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
        path = f"{place}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run([script, *flags], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split("\0")[:-1]


def program_line(script: Path, flags: Sequence[str] = ()) -> list[str]:
    """The program that ``script`` starts, and its words."""
    run, project, _, *line = words_for_uv(script, flags)
    assert (run, project) == ("run", "--project")
    return line
