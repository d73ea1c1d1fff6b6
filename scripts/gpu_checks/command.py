"""The command line of ``scripts/gpu_check``: run the parts, or render the page about their results."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from gpu_checks.page import render
from gpu_checks.processes import ROOT, Settings, run_parts, time_limits
from gpu_checks.registry import Part
from gpu_checks.results import PartResult, ResultError, read_results

PAGE = ROOT / "docs" / "gpu.md"
MINUTES, SMALL_MINUTES = 8.0, 30.0
MOST_JOBS = 4  # parts side by side: each has a CUDA context of its own


class UsageError(ValueError):
    """A flag has a value that cannot be used; the message says which and what to give."""


def main(argv: Sequence[str] | None = None, registry: str = "gpu_checks.registry") -> int:
    """Run the command line.

    Args:
        argv: The words after the command's name; those of the process by default.
        registry: The module whose PARTS are known.

    Returns:
        0; 1 if a part failed; 2 for a flag that cannot be used.
    """
    arguments = _parser().parse_args(argv)
    known: Sequence[Part] = import_module(registry).PARTS
    try:
        if arguments.render is not None:
            return _render(arguments.render, arguments.page, known)
        return _run(arguments, known, registry)
    except (UsageError, ResultError) as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace, known: Sequence[Part], registry: str) -> int:
    parts = choose_parts(arguments.parts, known)
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", arguments.device):
        raise UsageError(f"--device {arguments.device} is not one of auto, cpu, cuda and cuda:N")
    if arguments.minutes is not None and arguments.minutes <= 0:
        raise UsageError(f"--minutes {arguments.minutes:g} leaves no time; give a positive number")
    minutes = arguments.minutes or (SMALL_MINUTES if arguments.small else MINUTES)
    jobs = max(1, arguments.jobs or min(MOST_JOBS, (os.cpu_count() or 1) // 2))
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    limits = time_limits(parts, jobs, 60 * minutes)
    print(f"{len(parts)} parts in at most {minutes:g} minutes, {jobs} at a time; results and logs in {out}")
    for part in parts:
        print(f"  {part.name:16} at most {limits[part.name]:4.0f} s{', alone' if part.alone else ''}", flush=True)
    settings = Settings(out, arguments.device, arguments.small, arguments.commit or _commit(), jobs, registry)
    return _summarize(run_parts(parts, limits, settings, _print_result))


def choose_parts(names: str | None, known: Sequence[Part]) -> list[Part]:
    """Return the parts with ``names``, separated by commas, in the order of ``known``; all of them for None."""
    if names is None:
        return list(known)
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in {part.name for part in known}]
    if unknown or not chosen:
        choices = ", ".join(part.name for part in known)
        raise UsageError(f"--parts {names}: there is no part {', '.join(unknown) or 'in it'}; choose from {choices}")
    return [part for part in known if part.name in chosen]


def _print_result(result: PartResult) -> None:
    verdicts = [claim.verdict for claim in result.claims.values()]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    reason = f": {result.reason}" if result.reason else ""
    print(f"{result.status:7} {result.part:16} {result.seconds:6.1f} s  ({counts or 'no claims'}){reason}", flush=True)


def _summarize(results: Sequence[PartResult]) -> int:
    def named(status: str) -> list[str]:
        return [result.part for result in results if result.status == status]

    lists = [f"{status}: {', '.join(named(status))}" for status in ("failed", "skipped") if named(status)]
    print(f"{len(named('passed'))} of {len(results)} parts passed", *lists, sep="; ")
    return 1 if named("failed") else 0


def _render(folder: Path | None, page: Path, known: Sequence[Part]) -> int:
    results = read_results(folder, [part.name for part in known]) if folder and str(folder) != "none" else {}
    page.write_text(render(known, results), encoding="utf-8")
    print(f"wrote {page} from {len(results)} results")
    return 0


def _commit() -> str:
    completed = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return completed.stdout.strip() or "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu_check",
        description="Check on this machine's GPU what the project claims for GPUs. Each part runs in a process of its "
        "own and writes OUT/PART.json; a part that fails or hangs does not stop the others.",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "gpu_check", help="folder for results and logs")
    parser.add_argument("--parts", metavar="A,B", help="run these parts only")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU, to try the script without a GPU")
    parser.add_argument("--device", default="auto", help="cuda, cuda:1 or cpu; default: the GPU if there is one")
    parser.add_argument(
        "--minutes", type=float, help=f"time of all parts; default {MINUTES:g}, small {SMALL_MINUTES:g}"
    )
    parser.add_argument("--jobs", type=int, help="parts that run side by side where they measure no time or memory")
    parser.add_argument("--commit", help="commit of the source, where it was copied without git")
    parser.add_argument(
        "--render", type=Path, metavar="FOLDER", help="write the page from the results in FOLDER (or `none`)"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that --render writes; default docs/gpu.md")
    return parser
