"""The flags of ``slm-bench report``."""

from __future__ import annotations

import argparse
from typing import Any

PAGE = "outputs/report.html"


def add(commands: Any) -> None:
    """Add ``report`` to the commands of a parser."""
    parser = commands.add_parser(
        "report",
        help="the JSON of any number of runs and machines as one page",
        description="Gather what --json of the other commands wrote, here and on other machines, into one HTML page "
        "that needs no network, and print a short table. Files that are not slm-bench's are named and passed over.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", nargs="+", metavar="OUT", help="JSON files, or folders that are searched for them")
    parser.add_argument("--html", metavar="FILE", default=PAGE, help="the page to write")
