"""Runs of the commands, at sizes that take a moment, and what they leave."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_bench.cli import main

ADAPTERS = ["--rounds", "2", "--batch_size", "1", "--tokens", "8", "--target_modules", "c_attn", "--threads", "1"]
TRAIN = ["--samples", "12", "--block_size", "48", "--budget", "160", "--micro", "96", "--batch", "2", "--steps", "2"]


@dataclass(frozen=True)
class Done:
    """A command that ran: its exit code, what it wrote and printed."""

    code: int
    found: dict[str, Any]
    plot: Path
    out: str
    err: str


def done(folder: Path, *words: str) -> Done:
    """Run a command of slm-bench with ``--json`` and ``--plot`` under ``folder``."""
    file, plot, out, err = folder / "made" / "run.json", folder / "also" / "run", io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*words, "--json", str(file), "--plot", str(plot)])
    return Done(code, json.loads(file.read_text()), plot, out.getvalue(), err.getvalue())


Write = Callable[..., Path]  # the name of a file, and what is to be changed of the envelope in it
