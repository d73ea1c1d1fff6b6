"""The flags of ``slm-bench all``."""

from __future__ import annotations

import argparse
from typing import Any

from slm_bench.names import of_names

# What runs, in this order; --full goes to those that have it.
COMMANDS: dict[str, tuple[str, ...]] = {
    "kv": ("kv", "--lengths", "32,64,128"),
    "kv_engine": ("kv", "--engine"),
    "adapters": ("adapters",),
    "train": ("train",),
    "serve": ("serve",),
}
HAVE_FULL = ("adapters", "train", "serve")
FOLDER = "outputs/bench"


def add(commands: Any) -> None:
    """Add ``all`` to the commands of a parser."""
    parser = commands.add_parser(
        "all",
        help="every benchmark, each in a process of its own, and the report of them",
        description=f"Run {', '.join(COMMANDS)}, each in a process of its own; go on where one fails; write figures, "
        "plots and report.html into one folder. The exit code is 1 if one of them failed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flag = parser.add_argument
    flag("--output_dir", metavar="DIR", default=FOLDER, help="where JSON, plots and report.html go")
    flag("--only", type=of_names(tuple(COMMANDS)), metavar="NAME,...", help=f"of {','.join(COMMANDS)} only these; all")
    flag("--full", action="store_true", help=f"{', '.join(HAVE_FULL)} at the sizes that the READMEs quote")
