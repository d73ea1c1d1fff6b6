"""Running slm-bench commands at small sizes, and reading their result files."""

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_bench.cli import main

SMALL_ADAPTERS = [
    *("--rounds", "2", "--batch_size", "1", "--tokens", "8", "--target_modules", "c_attn", "--threads", "1")
]
SMALL_TRAIN = [
    *("--samples", "12", "--block_size", "48", "--budget", "160", "--micro", "96", "--batch", "2", "--steps", "2")
]

WriteResult = Callable[..., Path]  # takes the name of a file and changed keys of the result file


@dataclass(frozen=True)
class CommandRun:
    """A finished command: exit code, content of the result file, path of the plot without its ending, and output."""

    exit_code: int
    result: dict[str, Any]
    plot: Path
    out: str
    err: str


def run_bench(folder: Path, *words: str) -> CommandRun:
    """Run a command of slm-bench with ``--json`` and ``--plot`` in folders that do not exist yet."""
    file, plot = folder / "results" / "run.json", folder / "plots" / "run"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        exit_code = main([*words, "--json", str(file), "--plot", str(plot)])
    return CommandRun(exit_code, json.loads(file.read_text()), plot, out.getvalue(), err.getvalue())


def comparison(run: CommandRun, title: str) -> dict[str, Any]:
    """Return the first comparison whose title starts with ``title``."""
    return next(entry for entry in run.result["results"]["comparisons"] if entry["title"].startswith(title))
