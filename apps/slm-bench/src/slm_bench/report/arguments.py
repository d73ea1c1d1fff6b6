"""Flags of ``slm-bench report``."""

from typing import Any

from slm_bench.harness.arguments import new_command


def add_report(commands: Any) -> None:
    """Add ``report`` to the commands of a parser."""
    parser = new_command(
        commands,
        "report",
        help="result files of any number of runs and machines as one HTML page",
        description="Combine result files that --json of the other commands wrote, on this machine and others, into "
        "one HTML page that needs no network, and print a summary. Other files are named and skipped.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="result files, or folders to search for them")
    parser.add_argument("--html", metavar="FILE", default="outputs/report.html", help="the page to write")
