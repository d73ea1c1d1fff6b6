"""Check what can be done with each architecture of the zoo, and write docs/models.md.

    uv run python scripts/model_table.py [--check]

With ``--check`` nothing is written. The exit code is 1 if a result is wrong (neither right nor refused in one
sentence), which the page then says, or if docs/models.md is not what this would write.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import transformers

from slm_testing.zoo.architecture import Architecture
from slm_testing.zoo.checks.outcome import Outcome
from slm_testing.zoo.checks.registry import CHECKS
from slm_testing.zoo.models import ZOO
from slm_testing.zoo.table import render

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"


def check(architecture: Architecture, wrong: list[str]) -> dict[str, Outcome]:
    """Return the outcome of each check, and add a line to ``wrong`` for each that fails."""
    outcomes = {}
    for column, run in CHECKS.items():
        try:
            outcomes[column] = run(architecture)
        except Exception as error:  # a traceback is as wrong as a wrong result
            wrong.append(f"{architecture.name}, {column}: {type(error).__name__}: {error}")
            outcomes[column] = Outcome("**wrong**")
    print(architecture.name, flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description="Check every architecture of the zoo and write docs/models.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; compare with docs/models.md")
    options = parser.parse_args()
    torch.set_num_threads(1)  # with tiny layers a second one only waits
    transformers.logging.set_verbosity_error()
    wrong: list[str] = []
    results = {name: check(architecture, wrong) for name, architecture in ZOO.items()}
    page = render(results, transformers.__version__)
    if not options.check:
        PAGE.write_text(page)
        print(f"{PAGE}: {len(results)} architectures")
    elif not PAGE.is_file() or PAGE.read_text() != page:
        wrong.append("docs/models.md is out of date: run scripts/model_table.py")
    for line in wrong:
        print(f"model_table.py: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
