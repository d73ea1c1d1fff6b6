"""Flags of ``slm-bench all``, and the command lines that it runs."""

from typing import Any

from slm_bench.harness.arguments import new_command

# By the name of the result file, in the order in which they run.
COMMANDS: dict[str, tuple[str, ...]] = {
    "kv": ("kv", "--lengths", "32,64,128"),
    "kv_engine": ("kv", "--engine"),
    "adapters": ("adapters",),
    "train": ("train",),
    "serve": ("serve",),
}
WITH_FULL = ("adapters", "train", "serve")  # those that have --full


def add_all(commands: Any) -> None:
    """Add ``all`` to the commands of a parser."""
    parser = new_command(
        commands,
        "all",
        help="every benchmark, each in a separate process, and a report of the results",
        description=f"Run {', '.join(COMMANDS)}, each in a separate process and whether or not others fail; write "
        "result files, plots and report.html to one folder. The exit code is 1 if one of them failed.",
    )
    parser.flag("output_dir", metavar="DIR", default="outputs/bench", help="folder of all files")
    parser.only(tuple(COMMANDS))
    parser.flag("full", action="store_true", help=f"run {', '.join(WITH_FULL)} at the size of published figures")
